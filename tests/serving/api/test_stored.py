"""Stored prompts: made, used, downloaded, uploaded, deleted; and never another key's."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save

from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.checkpoints.load import load_model
from prosg.core.update import LowRank
from prosg.data.templates import Turn
from prosg.model.conversation import Conversation
from prosg.model.prosg import ProSG
from prosg.serving.api.keys import add_key
from prosg.serving.api.prompts import PromptRecord, PromptStore
from prosg.serving.api.storage import Folder
from prosg.serving.api.stored import prompt_object
from support.api import CODE, ROOT, Served, served
from support.chat_models import chat_model
from support.models import same_encoded

CHAT, COMPLETE, PROMPTS = "/v1/chat/completions", "/v1/completions", "/v1/prompts"
UPLOAD = f"{PROMPTS}/upload"
BINARY = {"content-type": "application/octet-stream"}


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": "", "max_tokens": 24, "temperature": 0} | more


@pytest.mark.parametrize("memory", ["none", "anchor", "update", "both", "auto"])
def test_an_answer_under_a_stored_text_is_that_of_the_text(server: Served, demo: ProSG, memory: Any) -> None:
    stored = server.post(PROMPTS, {"text": CODE}, 201)
    wanted = demo.generate(CODE, memory=memory, temperature=0.0, max_tokens=24)
    for body in (completion(prompt_id=stored["id"]), completion(model=f"demo:{stored['id']}")):
        reply = server.post(COMPLETE, body | {"memory": memory})
        assert reply["choices"][0]["text"] == wanted
        usage = reply["usage"]
        assert usage["prompt_tokens"] == usage["prompt_tokens_details"]["cached_tokens"] == stored["tokens"]
    chat = {"model": "demo", "messages": [], "prompt_id": stored["id"], "max_tokens": 24, "temperature": 0}
    assert server.post(CHAT, chat | {"memory": memory})["choices"][0]["message"]["content"] == wanted


def test_the_prompts_own_memory_holds_it_unless_a_request_says_otherwise(server: Served) -> None:
    stored = server.post(PROMPTS, {"text": CODE, "memory": "anchor", "tau": 7}, 201)
    assert (stored["memory"], stored["tau"]) == ("anchor", 7)
    body = completion(prompt_id=stored["id"], max_tokens=40)
    texts = {
        memory: server.post(COMPLETE, body | ({"memory": memory} if memory else {}))["prosg"]["memory"]
        for memory in (None, "none", "update")
    }
    assert texts == {None: "anchor", "none": "none", "update": "update"}


@pytest.mark.parametrize("system", ["", "You are Ada, a pilot."])
def test_turns_follow_stored_messages_as_in_prosg_chat(chat_server: Served, demo: ProSG, system: str) -> None:
    first = [{"role": "system", "content": system}] if system else [{"role": "user", "content": CODE}]
    stored = chat_server.post(PROMPTS, {"messages": first, "memory": "both"}, 201)
    talk = Conversation(demo, "world", memory="both", system=system)
    messages: list[dict[str, str]] = []
    for question in (CODE, "And now?"):
        answer = "".join(talk.ask(question, temperature=0.0, max_tokens=12))
        if system or messages:
            messages.append({"role": "user", "content": question})
        body = {"model": "demo", "messages": messages, "prompt_id": stored["id"], "max_tokens": 12, "temperature": 0}
        reply = chat_server.post(CHAT, body)
        assert reply["choices"][0]["message"]["content"] == answer.removeprefix(" ")
        assert reply["prosg"]["held_tokens"] == stored["tokens"]
        if not talk.turns[-1].text:
            break
        messages.append({"role": "assistant", "content": talk.turns[-1].text})


def test_stored_messages_have_to_be_a_conversation(chat_server: Served, server: Served) -> None:
    system = {"role": "system", "content": "You are Ada."}
    chat_server.refused(PROMPTS, {"messages": [{"role": "assistant", "content": "x"}]}, "assistant", param="messages")
    chat_server.refused(PROMPTS, {"text": "x", "messages": [system]}, "either")
    chat_server.refused(PROMPTS, {}, "either")
    chat_server.refused(PROMPTS, {"text": "x", "label": "y"}, "label")
    server.refused(PROMPTS, {"messages": [system]}, "system", param="messages")
    stored = chat_server.post(PROMPTS, {"messages": [system]}, 201)
    body = {"model": "demo", "prompt_id": stored["id"], "max_tokens": 3}
    chat_server.refused(CHAT, body | {"messages": []}, "system", param="messages")
    chat_server.refused(CHAT, body | {"messages": [system]}, "system", param="messages")


def test_a_system_turn_that_is_no_beginning_of_a_conversation_is_not_stored(tmp_path: Path) -> None:
    """Its template counts the turns: what was stored would begin no conversation."""
    source = "{% for message in messages %}<|im_start|>{{ message.content ~ loop.length }}<|im_end|>{% endfor %}"
    model = load_model(str(chat_model(tmp_path / "model", source)))
    with served(model) as server:
        server.refused(
            PROMPTS, {"messages": [{"role": "system", "content": "Hi."}]}, "system turn alone", param="messages"
        )


def test_the_same_request_adds_no_second_prompt(server: Served) -> None:
    first = server.post(PROMPTS, {"text": "Once."}, 201)
    assert server.post(PROMPTS, {"text": "Once."}, 201) == first
    assert server.post(PROMPTS, {"text": "Once.", "memory": "none"}, 201)["id"] != first["id"]


def test_list_get_and_delete(demo: ProSG) -> None:
    with served(demo) as server:
        made = [server.post(PROMPTS, {"text": text, "name": text}, 201) for text in ("One.", "Two.")]
        listed = server.get(PROMPTS)["data"]
        assert sorted(one["id"] for one in listed) == sorted(one["id"] for one in made)
        assert server.get(f"{PROMPTS}/{made[0]['id']}") == made[0]
        assert f"demo:{made[0]['id']}" in [model["id"] for model in server.get("/v1/models")["data"]]
        server.get(f"/v1/models/demo:{made[0]['id']}")
        assert server.client.delete(f"{PROMPTS}/{made[0]['id']}").json()["deleted"]
        for path in (made[0]["id"], f"{made[0]['id']}/content", "prompt-" + "0" * 24, "..%2f..", "x" * 300):
            server.get(f"{PROMPTS}/{path}", 404)
        assert server.client.delete(f"{PROMPTS}/{made[0]['id']}").status_code == 404
        server.get(f"/v1/models/demo:{made[0]['id']}", 404)
        server.refused(COMPLETE, completion(prompt_id=made[0]["id"]), "no such", status=404)
        assert server.get(PROMPTS)["data"] == [made[1]]


def test_a_file_of_prosg_encode_goes_up_and_comes_down_the_same(server: Served, demo: ProSG, tmp_path: Path) -> None:
    file = tmp_path / "prompt.safetensors"
    encoded = demo.encode(CODE, memory="both", tau=9.0)
    save_encoded(encoded, file, demo)
    reply = server.client.post(f"{UPLOAD}?name=mine", content=file.read_bytes(), headers=BINARY)
    assert reply.status_code == 201, reply.text
    record = reply.json()
    assert (record["source"], record["name"], record["memory"]) == ("upload", "mine", None)
    answer = server.post(COMPLETE, completion(prompt_id=record["id"]))
    assert answer["choices"][0]["text"] == demo.generate(encoded, temperature=0.0, max_tokens=24)[0]
    assert answer["prosg"]["memory"] == "both"
    counted = [line for line in server.client.get("/metrics").text.splitlines() if "_stored_total{" in line]
    again = server.client.post(f"{UPLOAD}?name=mine", content=file.read_bytes(), headers=BINARY)
    assert again.json() == record  # it was there: nothing is stored, and nothing counted
    assert [line for line in server.client.get("/metrics").text.splitlines() if "_stored_total{" in line] == counted
    back = tmp_path / "back.safetensors"
    back.write_bytes(server.client.get(f"{PROMPTS}/{record['id']}/content").content)
    assert same_encoded(load_encoded(back, demo), encoded)


def bad_uploads(demo: ProSG, folder: Path) -> dict[str, bytes]:
    def content(name: str, encoded: Any, fingerprint: str = "") -> bytes:
        file = folder / f"{name}.safetensors"
        save_encoded(encoded, file, demo, fingerprint=fingerprint)
        return file.read_bytes()

    encoded = demo.encode(CODE, memory="update")
    whole = content("whole", encoded)
    high = {
        site: LowRank(d.a.repeat(1, 9, 1), d.b.repeat(*(1,) * (d.b.dim() - 1), 9)) for site, d in encoded.update.items()
    }
    last = f"state.{len(encoded.state) - 1}."
    short = {name: tensor for name, tensor in load_file(folder / "whole.safetensors").items() if last not in name}
    return {
        "nothing": b"",
        "garbage": os.urandom(2000),
        "cut": whole[:-100],
        "pickle": b"\x80\x04\x95",
        "two": content("two", demo.encode([CODE, "Hello."])),
        "another model's": content("other", encoded, "0" * 64),
        "rank": content("rank", encoded.replace(update=high)),
        "layers": save(short, {"format": "prosg-encoded-1", "model": model_fingerprint(demo)}),
        "not finite": whole[:-400] + b"\xff" * 400,
        "header": (1 << 40).to_bytes(8, "little") + whole[8:],
    }


def test_uploads_are_checked_as_files_are(server: Served, demo: ProSG, tmp_path: Path) -> None:
    before = server.get(PROMPTS)
    reply = server.client.post(f"{UPLOAD}?nam=mine", content=b"x", headers=BINARY)
    assert reply.status_code == 400 and "unknown query parameter 'nam'; allowed: name" in reply.text
    for name, content in bad_uploads(demo, tmp_path).items():
        reply = server.client.post(UPLOAD, content=content, headers=BINARY)
        assert reply.status_code == 400, name
        error = reply.json()["error"]
        assert error["code"] == "invalid_prompt_file" and str(tmp_path) not in error["message"], name
        assert "/tmp" not in error["message"], error
    assert server.client.post(UPLOAD, json={}).status_code == 415
    assert server.get(PROMPTS) == before


def test_two_keys_never_see_each_others_prompts(demo: ProSG, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    anna, ben = ({"authorization": f"Bearer {add_key(keys, name, {})}"} for name in ("anna", "ben"))
    with served(demo, keys=str(keys), prompts=str(tmp_path / "prompts")) as server:
        hers = server.post(PROMPTS, {"text": CODE}, 201, **anna)
        his = server.post(PROMPTS, {"text": CODE}, 201, **ben)
        assert hers["id"] != his["id"]
        for path in (f"{PROMPTS}/{hers['id']}", f"{PROMPTS}/{hers['id']}/content", f"/v1/models/demo:{hers['id']}"):
            server.get(path, 404, **ben)
            server.client.get(path, headers=anna).raise_for_status()
        assert [one["id"] for one in server.get(PROMPTS, **ben)["data"]] == [his["id"]]
        assert [one["id"] for one in server.get("/v1/models", **ben)["data"]] == ["demo", f"demo:{his['id']}"]
        server.post(COMPLETE, completion(prompt_id=hers["id"]), 404, **ben)
        server.post(COMPLETE, completion(model=f"demo:{hers['id']}"), 404, **ben)
        assert server.client.delete(f"{PROMPTS}/{hers['id']}", headers=ben).status_code == 404
        server.post(COMPLETE, completion(prompt_id=hers["id"]), 200, **anna)
        server.get(PROMPTS, 401)


def test_a_key_has_as_many_prompts_as_it_may(demo: ProSG) -> None:
    with served(demo, limits={"prompts": 2}) as server:
        for text in ("One.", "Two.", "One."):
            server.post(PROMPTS, {"text": text}, 201)
        server.refused(PROMPTS, {"text": "Three."}, "2", status=403)


def test_prompts_outlive_the_server_and_belong_to_its_model(demo: ProSG, tmp_path: Path) -> None:
    with served(demo, prompts=str(tmp_path)) as server:
        stored = server.post(PROMPTS, {"text": CODE}, 201)
        text = server.post(COMPLETE, completion(prompt_id=stored["id"]))["choices"]
    with served(demo, prompts=str(tmp_path)) as server:
        assert server.get(PROMPTS)["data"] == [stored]
        assert server.post(COMPLETE, completion(prompt_id=stored["id"]))["choices"] == text
        file = tmp_path / "local" / f"{stored['id']}.safetensors"
    other = ProSG.from_scratch(demo, "plus", seed=1)
    with served(other, prompts=str(tmp_path)) as server:
        assert server.get(PROMPTS)["data"] == []
    file.write_bytes(file.read_bytes()[:500])
    with served(demo, prompts=str(tmp_path)) as server:
        server.refused(COMPLETE, completion(prompt_id=stored["id"]), "store it again", status=409)


def record(number: int, fingerprint: str) -> PromptRecord:
    name = f"prompt-{number:024x}"
    return PromptRecord(name, 1, "", "messages", 3, 0, fingerprint, "auto", None, True, "world", (Turn("user", "Hi."),))


def test_an_endless_window_is_json() -> None:
    endless = dataclasses.replace(record(1, "f" * 64), memory="anchor", tau=math.inf)
    assert PromptRecord.from_dict(json.loads(json.dumps(endless.to_dict(), allow_nan=False))) == endless
    assert json.loads(json.dumps(prompt_object(endless), allow_nan=False))["tau"] == "inf"


def test_prompts_in_memory_are_bounded(demo: ProSG, tmp_path: Path) -> None:
    fingerprint, encoded = model_fingerprint(demo), demo.encode(CODE, memory="update")
    store = PromptStore(Folder(tmp_path), demo, fingerprint, cache_bytes=int(encoded.nbytes * 2.5))
    for number in range(5):
        store.add("anna", record(number, fingerprint), encoded)
    assert len(store._cached) == 2
    for number in range(5):
        found = store.find("anna", f"prompt-{number:024x}")
        assert found is not None and found.turns == (Turn("user", "Hi."),)
        assert same_encoded(store.load("anna", found).encoded, encoded)


WRITER = """
import sys
from pathlib import Path
from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.checkpoints.load import load_model
from prosg.checkpoints.load import load_model
from prosg.serving.api.prompts import PromptRecord, PromptStore
from prosg.serving.api.storage import Folder
model = load_model("demo")
fingerprint, encoded = model_fingerprint(model), model.encode("Hello.", memory="update")
store = PromptStore(Folder(Path(sys.argv[1])), model, fingerprint)
for number in range(100000):
    name = f"prompt-{number:024x}"
    store.add("anna", PromptRecord(name, 1, "", "text", 3, 0, fingerprint, "auto", None, True, ""), encoded)
    print(name, flush=True)
"""


@pytest.mark.parametrize("after", [1, 7, 20])
def test_a_killed_server_leaves_no_half_prompt_and_loses_none_that_it_confirmed(
    demo: ProSG, tmp_path: Path, after: int
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *filter(None, sys.path)])}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert writer.stdout is not None
    confirmed = [writer.stdout.readline().strip() for _ in range(after)]
    writer.send_signal(signal.SIGKILL)
    confirmed += [line for line in writer.stdout.read().split("\n") if len(line) == 31]
    writer.wait()
    assert len(confirmed) >= after and "" not in confirmed
    store = PromptStore(Folder(tmp_path), demo, model_fingerprint(demo))
    assert not list(tmp_path.rglob(".*"))
    listed = store.owned_by("anna")
    assert {one.id for one in listed} >= set(confirmed)
    wanted = demo.encode("Hello.", memory="update")
    for found in listed:
        assert same_encoded(store.load("anna", found).encoded, wanted)


def test_half_confirmed_files_are_cleared_away_when_they_are_old(demo: ProSG, tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    files = [tmp_path / "anna" / f"prompt-{number:024x}.safetensors" for number in (1, 2)]
    for file in files:
        file.write_bytes(b"")
    os.utime(files[0], (1, 1))
    PromptStore(Folder(tmp_path), demo, "0" * 64)
    assert [file.exists() for file in files] == [False, True]


def test_a_prompt_that_is_not_there_costs_no_search_for_names_like_it(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difflib.SequenceMatcher.ratio", lambda _: pytest.fail("names were compared"))
    server.post("/v1/prompts", {"text": "The code is 415263."}, status=201)
    server.get(f"/v1/prompts/prompt-{'0' * 24}", status=404)
