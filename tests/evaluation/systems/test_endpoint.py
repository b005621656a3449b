"""Systems behind an endpoint, asked over real HTTP: a server that answers well, badly, late and not at all."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prosg.cli import main
from prosg.data.chat import as_messages
from prosg.data.row import Row, write_rows
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.data.templates import Turn
from prosg.utils.store import read_log
from support.chat_server import Server, started
from support.evaluations import DEMO_BASE, answers, part, results, run_here, write_config

ROWS = make_rows(DEMO_KINDS, 6, 0, "test", sentences=(1, 1))
LOCAL = {"model": DEMO_BASE}


class AnswerServer(Server):
    """Knows the rows' answers; `wrong` prompts get another one, and what it was asked is kept."""

    def __init__(self, *, wrong: int = 0, **options: Any) -> None:
        super().__init__(**{"faults": 0.0, "bad": 0.0, "retry_after": ("0.05",), **options})
        self.right = {row.prompt: row.answer for row in ROWS[wrong:]}
        self.bodies: list[dict[str, Any]] = []

    def say(self, body: dict[str, Any], rng: Random) -> tuple[str, str]:
        with self.lock:
            self.bodies.append(body)
        return self.right.get(body["messages"][-1]["content"], "What do you mean?"), "stop"


@pytest.fixture
def servers() -> Iterator[Any]:
    yield from started(AnswerServer)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return run_here(monkeypatch)


def system(url: str, **options: Any) -> dict[str, Any]:
    """A system with everything that an endpoint needs; options in capitals are the system's own."""
    own = {key.lower(): options.pop(key) for key in [*options] if key.isupper()}
    endpoint = {"base_url": url, "model": "m", "api_key_env": "", "requests": 100, "tokens": 10**6}
    return {"endpoint": endpoint | {"attempts": 6, "backoff": 0.01, "timeout": 5.0} | options} | own


def ask(folder: Path, systems: dict[str, Any], **changes: Any) -> int:
    write_rows(folder / "rows.jsonl", ROWS)
    options = {"measures": ["accuracy", "perplexity"], "data": {"file": str(folder / "rows.jsonl"), "rows": 0}}
    return main(["eval", write_config(folder, systems, **(options | changes))])


def ledger(out: Path, name: str = "far") -> list[dict[str, Any]]:
    return read_log(out / "endpoints" / name / "ledger.jsonl")


def dead() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_a_good_server_is_asked_once_for_each_prompt(tmp_path: Path, servers: Any) -> None:
    server, out = servers(wrong=2), tmp_path / "out"
    assert ask(tmp_path, {"far": system(server.url)}) == 0
    assert len(server.bodies) == len(ROWS)
    body = next(one for one in server.bodies if one["messages"][-1]["content"] == ROWS[0].prompt)
    assert (body["temperature"], body["max_tokens"]) == (0.8, 40) and body["messages"][0]["role"] == "user"
    found = answers(out, "far")
    assert [found[row.id]["text"] for row in ROWS[2:]] == [row.answer for row in ROWS[2:]]
    assert found[ROWS[3].id]["reason"] == "end" and found[ROWS[3].id]["tokens"] > 0
    (row,) = results(out, system="far")
    assert (row["n"], row["accuracy"], row["update"], row["perplexity"]) == (6, pytest.approx(4 / 6), "none", None)
    assert "an endpoint gives texts, not probabilities or states" in (out / "report.md").read_text()
    # Run again, nothing is asked, also where the rows are fewer or the measures others.
    assert ask(tmp_path, {"far": system(server.url)}) == 0
    assert ask(tmp_path, {"far": system(server.url, concurrency=2)}, data={"rows": 4}, measures=["accuracy"]) == 0
    assert len(server.bodies) == len(ROWS)


def test_a_bad_server_ends_with_the_same_answers(tmp_path: Path, servers: Any) -> None:
    server = servers(faults=0.9, timeouts=0.1, patience=1.0)
    assert ask(tmp_path, {"far": system(server.url, timeout=1.0)}) == 0
    assert {"429", "500", "503", "cut"} & set(server.outcomes)
    assert [one["text"] for one in answers(tmp_path / "out", "far").values()] == [row.answer for row in ROWS]
    assert results(tmp_path / "out", system="far")[0]["accuracy"] == 1.0


def test_conversations_prompts_read_twice_and_sampling(tmp_path: Path, servers: Any) -> None:
    server = servers()
    turns = (Turn("system", "Be brief."), Turn("user", "One."), Turn("assistant", "1"), Turn("user", "Two."))
    chat = Row("chat", "x", "2", turns=turns)
    lines = [{"id": "chat", "messages": as_messages(turns, chat.answer)}, {"prompt": "Say a.", "answer": "a"}]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {"file": str(tmp_path / "chat.jsonl"), "rows": 0}
    systems = {"once": system(server.url), "twice": system(server.url, PROMPT="twice")}
    assert ask(tmp_path, systems, data=config, generation={"top_p": 0.5}, measures=["accuracy"]) == 0
    asked = [[(one["role"], one["content"]) for one in body["messages"]] for body in server.bodies]
    plain = [("system", "Be brief."), ("user", "One."), ("assistant", "1"), ("user", "Two.")]
    assert plain in asked and [*plain[:3], ("user", "Two.\nTwo.")] in asked
    assert [("user", "Say a.")] in asked and [("user", "Say a.\nSay a.")] in asked
    assert all(body["top_p"] == 0.5 for body in server.bodies)


def test_a_late_server_is_given_up(tmp_path: Path, servers: Any, capsys: Any) -> None:
    server = servers(delay=0.6)
    late = system(server.url, timeout=0.15, attempts=2, concurrency=2)
    assert ask(tmp_path, {"far": late, "near": LOCAL}) == 1
    assert "time-out" in capsys.readouterr().err
    assert results(tmp_path / "out", system="near")[0]["accuracy"] is not None
    # It has time, now: the same command goes on.
    server.delay = 0.0
    assert ask(tmp_path, {"far": late, "near": LOCAL}) == 0
    assert results(tmp_path / "out", system="far")[0]["accuracy"] == 1.0


def test_a_dead_server_leaves_the_others_results(
    tmp_path: Path, servers: Any, capsys: Any, measured: list[str]
) -> None:
    url, out = dead(), tmp_path / "out"
    systems = {"far": system(url, attempts=2), "near": LOCAL}
    assert ask(tmp_path, systems) == 1
    told = capsys.readouterr().err
    assert "6 requests met only failures (the last: no connection); the same command asks again" in told
    assert "missing: far: accuracy; the same command goes on" in told
    said = (out / "report.md").read_text()
    assert "Not whole: far: accuracy are missing" in said
    assert (out / "report.html").exists() and results(out, system="near")[0]["n"] == 6
    # The same server, alive: what is near is not measured again.
    server = servers(port=int(url.rpartition(":")[2].removesuffix("/v1")))
    measured.clear()
    assert ask(tmp_path, systems) == 0
    assert measured == ["far"] and len(server.bodies) == 6
    assert "Not whole" not in (out / "report.md").read_text()


def test_caps_are_kept_and_may_be_raised(tmp_path: Path, servers: Any, capsys: Any) -> None:
    server = servers()
    assert ask(tmp_path, {"far": system(server.url, requests=4, concurrency=1)}) == 1
    told = capsys.readouterr().err
    assert "stopped by" in told and "requests" in told and "missing: far: accuracy" in told
    assert len(server.bodies) == 4 and len(answers(tmp_path / "out", "far")) == 4
    assert results(tmp_path / "out", system="far") == []  # a part of the rows is no result
    assert ask(tmp_path, {"far": system(server.url, requests=20)}) == 0
    assert len(server.bodies) == 6
    spent = [one for one in ledger(tmp_path / "out") if one.get("outcome") == "reply"]
    assert len(spent) == 6


def test_tokens_are_capped_before_a_request_is_sent(tmp_path: Path, servers: Any) -> None:
    server = servers()
    assert ask(tmp_path, {"far": system(server.url, tokens=30)}) == 1
    assert server.bodies == []


def test_what_a_server_refuses_is_no_answer(tmp_path: Path, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt gets an error of its own (a filter, say): it is told, and not counted as wrong."""
    server, out = servers(), tmp_path / "out"
    good = AnswerServer.say

    def say(self: AnswerServer, body: dict[str, Any], rng: Random) -> tuple[str, str]:
        text, finish = good(self, body, rng)
        return ("", "error") if body["messages"][-1]["content"] == ROWS[4].prompt else (text, finish)

    monkeypatch.setattr(AnswerServer, "say", say)
    assert ask(tmp_path, {"far": system(server.url, concurrency=1)}) == 0
    assert list(answers(out, "far")) == [row.id for row in ROWS if row is not ROWS[4]]
    assert part(out, "far", "accuracy") == {"answers": 5, "refused": 1}
    assert results(out, system="far")[0]["accuracy"] == 1.0
    assert (
        "Prompts to which a server gave an error or no reply at all, not counted: far 1."
        in (out / "report.md").read_text()
    )


def test_a_wrong_key_is_said_and_nothing_holds_it(
    tmp_path: Path, servers: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers()
    systems = {"far": system(server.url, api_key_env="THE_KEY"), "near": LOCAL}
    assert ask(tmp_path, systems) == 2
    assert "systems.far: endpoint" in capsys.readouterr().err and not (tmp_path / "out" / "parts").exists()
    secret = "a-key-that-nobody-may-read"
    monkeypatch.setenv("THE_KEY", secret)
    assert ask(tmp_path, systems) == 0
    assert server.keys == {f"Bearer {secret}"}
    assert not [
        file for file in (tmp_path / "out").rglob("*") if file.is_file() and secret.encode() in file.read_bytes()
    ]
    # All is there: the report can be written without it.
    monkeypatch.delenv("THE_KEY")
    assert ask(tmp_path, systems, title="Again") == 0
