"""The playground's scripts under node, where there is one: a page of stand-ins, and a server that is scripted."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node")
STAND_INS = """
class Element {
  constructor() { this.children = []; this.classList = { add() {}, remove() {} }; this.value = ""; this.handlers = {}; }
  replaceChildren(...nodes) { this.children = nodes; }
  append(...nodes) { this.children.push(...nodes); }
  add(option) { this.children.push(option); }
  focus() {}
  addEventListener(name, handler) { this.handlers[name] = handler; }
}
const found = {};
const element = (id) => (found[id] ??= new Element());
const roots = [new Element(), new Element()];
globalThis.Option = class {};
globalThis.document = {
  body: { dataset: {} },
  createElement: () => new Element(),
  getElementById: element,
  querySelectorAll: () => roots,
};
const kept = {};
globalThis.sessionStorage = {
  getItem: (key) => kept[key] ?? null,
  setItem: (key, value) => { if (value.length > 4000) throw new Error("QuotaExceededError"); kept[key] = value; },
  removeItem: (key) => { delete kept[key]; },
};
const sent = [];
let answer = [];
const WAIT = "nothing more comes until the page gives up";
let refused = false;
globalThis.fetch = async (path, { body, signal } = {}) => {
  if (refused) return Response.json({ error: { message: "send an API key" } }, { status: 401 });
  const model = { id: "demo", memory: "auto", memories: ["none", "anchor", "auto"] };
  if (path === "/v1/models") return Response.json({ data: [model] });
  sent.push(JSON.parse(body));
  const stream = new ReadableStream({
    start(controller) {
      const events = answer.filter((event) => event !== WAIT).map((event) => `data: ${event}\\n\\n`);
      controller.enqueue(new TextEncoder().encode(events.join("")));
      if (answer.at(-1) !== WAIT) controller.close();
      else signal.addEventListener("abort", () => controller.error(new Error("aborted")));
    },
  });
  return new Response(stream);
};
const text = (content) => JSON.stringify({ choices: [{ delta: { content } }] });
async function ask(question) {
  element("question").value = question;
  element("ask").handlers.submit({ preventDefault() {} });
  for (let turn = 0; turn < 200; turn++) await new Promise(setImmediate); // until all has been done that can be
}
const turns = () => sent.at(-1).messages.map((message) => message.content);
"""


def run(folder: Path, script: str) -> Any:
    """Runs a script with the page, and returns what it says as JSON."""
    for file in resources.files("prosg.serving.api").joinpath("playground").iterdir():
        if file.name.endswith(".js"):
            (folder / file.name).write_text(file.read_text().replace('"/playground/', '"./'))
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "test.js").write_text(STAND_INS + script)
    assert NODE is not None
    done = subprocess.run([NODE, "test.js"], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_new_chat_while_an_answer_is_written_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    script = """
    await import("./app.js");
    answer = [text("one"), "[DONE]"];
    await ask("first");
    answer = [text("half"), WAIT];
    await ask("second");
    await element("reset").handlers.click();
    answer = [text("new"), "[DONE]"];
    await ask("third");
    const { columns } = JSON.parse(kept["prosg-playground"]);
    console.log(JSON.stringify([turns(), element("send").textContent, columns[0].turns.length]));
    """
    assert run(tmp_path, script) == [["third"], "Send", 2]


def test_an_answer_that_is_cut_off_is_no_turn(tmp_path: Path) -> None:
    script = """
    await import("./app.js");
    answer = [text("cut o")];
    await ask("first");
    answer = [text(" whole\\n"), "[DONE]"];
    await ask("second");
    await ask("third");
    console.log(JSON.stringify(turns()));
    """
    assert run(tmp_path, script) == ["second", " whole\n", "third"]  # as it was written


def test_a_question_that_is_sent_again_while_the_server_is_looked_for_is_asked_once(tmp_path: Path) -> None:
    script = """
    refused = true;
    await import("./app.js");
    refused = false;
    answer = [text("one"), "[DONE]"];
    ask("first");
    await ask("first");
    console.log(JSON.stringify(sent.length));
    """
    assert run(tmp_path, script) == 2  # a column each


def test_the_servers_memory_is_taken_once_a_key_is_given_and_what_is_too_much_is_not_kept(tmp_path: Path) -> None:
    script = """
    refused = true;
    await import("./app.js");
    refused = false;
    answer = [text("a".repeat(3000)), "[DONE]"];
    sessionStorage.setItem("prosg-playground", "{}");
    await element("key").handlers.change();
    await ask("first");
    await ask("second");
    console.log(JSON.stringify([sent.map((one) => one.memory), element("send").textContent]));
    """
    assert run(tmp_path, script) == [["none", "auto"] * 2, "Send"]
