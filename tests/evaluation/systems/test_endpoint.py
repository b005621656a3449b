"""Remote systems over real HTTP, with a server that answers well, badly, late and not at all."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
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
from support.chat_server import ChatServer, server_factory
from support.evaluations import DEMO_BASE, answers, part, results, run_here, write_config

ROWS = make_rows(DEMO_KINDS, 6, 0, "test", sentences=(1, 1))
LOCAL = {"model": DEMO_BASE}


class AnswerServer(ChatServer):
    """Gives the rows' right answers except to the first `wrong` rows, and keeps the bodies of all requests."""

    def __init__(self, *, wrong: int = 0, **options: Any) -> None:
        super().__init__(**{"faults": 0.0, "bad": 0.0, "retry_after": ("0.05",), **options})
        self.right = {row.prompt: row.answer for row in ROWS[wrong:]}
        self.bodies: list[dict[str, Any]] = []

    def write_reply(self, body: dict[str, Any], rng: Random) -> tuple[str, str]:
        with self.lock:
            self.bodies.append(body)
        return self.right.get(body["messages"][-1]["content"], "What do you mean?"), "stop"


@pytest.fixture
def servers() -> Iterator[Any]:
    yield from server_factory(AnswerServer)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return run_here(monkeypatch)


def remote(url: str, **options: Any) -> dict[str, Any]:
    """A remote system with these options of its endpoint."""
    endpoint = {"base_url": url, "model": "m", "api_key_env": "", "requests": 100, "tokens": 10**6}
    return {"endpoint": endpoint | {"attempts": 6, "backoff": 0.01, "timeout": 5.0} | options}


def evaluate(folder: Path, systems: dict[str, Any], **changes: Any) -> int:
    write_rows(folder / "rows.jsonl", ROWS)
    options = {"measures": ["accuracy", "perplexity"], "data": {"file": str(folder / "rows.jsonl"), "rows": 0}}
    return main(["eval", write_config(folder, systems, **(options | changes))])


def ledger(out: Path, name: str = "far") -> list[dict[str, Any]]:
    return read_log(out / "endpoints" / name / "ledger.jsonl")


def unused_address() -> str:
    """An address where no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_each_prompt_is_asked_once(tmp_path: Path, servers: Any) -> None:
    server, out = servers(wrong=2), tmp_path / "out"
    assert evaluate(tmp_path, {"far": remote(server.url)}) == 0
    assert len(server.bodies) == len(ROWS)
    body = next(body for body in server.bodies if body["messages"][-1]["content"] == ROWS[0].prompt)
    assert (body["temperature"], body["max_tokens"]) == (0.8, 40) and body["messages"][0]["role"] == "user"
    written = answers(out, "far")
    assert [written[row.id]["text"] for row in ROWS[2:]] == [row.answer for row in ROWS[2:]]
    assert written[ROWS[3].id]["reason"] == "end" and written[ROWS[3].id]["tokens"] > 0
    (row,) = results(out, system="far")
    assert (row["n"], row["accuracy"], row["update"]) == (6, pytest.approx(4 / 6), "none")
    assert row.get("perplexity") is None
    assert part(out, "far", "perplexity").keys() == {"left_out"}
    assert part(out, "far", "perplexity")["left_out"] in (out / "report.md").read_text()
    # Nothing is asked again, also with fewer rows or other measures.
    assert evaluate(tmp_path, {"far": remote(server.url)}) == 0
    assert evaluate(tmp_path, {"far": remote(server.url, concurrency=2)}, data={"rows": 4}, measures=["accuracy"]) == 0
    assert len(server.bodies) == len(ROWS)


def test_failures_are_retried(tmp_path: Path, servers: Any) -> None:
    server = servers(faults=0.9, timeouts=0.1, patience=1.0)
    assert evaluate(tmp_path, {"far": remote(server.url, timeout=1.0)}) == 0
    assert {"429", "500", "503", "cut"} & set(server.outcomes)
    assert [answer["text"] for answer in answers(tmp_path / "out", "far").values()] == [row.answer for row in ROWS]
    assert results(tmp_path / "out", system="far")[0]["accuracy"] == 1.0


def test_conversations_repeated_prompts_and_sampling(tmp_path: Path, servers: Any) -> None:
    server = servers()
    turns = (Turn("system", "Be brief."), Turn("user", "One."), Turn("assistant", "1"), Turn("user", "Two."))
    chat = Row("chat", "x", "2", turns=turns)
    lines = [{"id": "chat", "messages": as_messages(turns, chat.answer)}, {"prompt": "Say a.", "answer": "a"}]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {"file": str(tmp_path / "chat.jsonl"), "rows": 0}
    systems = {"once": remote(server.url), "twice": remote(server.url) | {"prompt": "twice"}}
    assert evaluate(tmp_path, systems, data=config, generation={"top_p": 0.5}, measures=["accuracy"]) == 0
    asked = [[(message["role"], message["content"]) for message in body["messages"]] for body in server.bodies]
    plain = [("system", "Be brief."), ("user", "One."), ("assistant", "1"), ("user", "Two.")]
    assert plain in asked and [*plain[:3], ("user", "Two.\nTwo.")] in asked
    assert [("user", "Say a.")] in asked and [("user", "Say a.\nSay a.")] in asked
    assert all(body["top_p"] == 0.5 for body in server.bodies)


def test_a_late_server_is_given_up(tmp_path: Path, servers: Any, capsys: Any) -> None:
    server = servers(delay=0.6)
    systems = {"far": remote(server.url, timeout=0.15, attempts=2, concurrency=2)}
    assert evaluate(tmp_path, systems) == 1
    assert "time-out" in capsys.readouterr().err
    # The server becomes fast: the same command continues.
    server.delay = 0.0
    assert evaluate(tmp_path, systems) == 0
    assert results(tmp_path / "out", system="far")[0]["accuracy"] == 1.0


def test_a_dead_server_leaves_the_others_results(
    tmp_path: Path, servers: Any, capsys: Any, measured: list[str]
) -> None:
    url, out = unused_address(), tmp_path / "out"
    systems = {"far": remote(url, attempts=2), "near": LOCAL}
    assert evaluate(tmp_path, systems) == 1
    error = capsys.readouterr().err
    assert url in error and "no connection" in error and "far: accuracy" in error
    assert sum(line["event"] == "booked" for line in ledger(out)) == 1
    assert "far: accuracy" in (out / "report.md").read_text()
    assert (out / "report.html").exists() and results(out, system="near")[0]["n"] == 6
    # The server comes up at the same address: the local system is not measured again.
    server = servers(port=int(url.rpartition(":")[2].removesuffix("/v1")))
    measured.clear()
    assert evaluate(tmp_path, systems) == 0
    assert measured == ["far"] and len(server.bodies) == 6
    assert "far: accuracy" not in (out / "report.md").read_text()


def test_caps_are_kept_and_may_be_raised(tmp_path: Path, servers: Any, capsys: Any) -> None:
    server = servers()
    assert evaluate(tmp_path, {"far": remote(server.url, requests=4, concurrency=1)}) == 1
    error = capsys.readouterr().err
    assert "systems.far.endpoint.requests" in error and "far: accuracy" in error
    assert len(server.bodies) == 4 and len(answers(tmp_path / "out", "far")) == 4
    assert results(tmp_path / "out", system="far") == []  # a part of the rows is no result
    assert evaluate(tmp_path, {"far": remote(server.url, requests=20)}) == 0
    assert len(server.bodies) == 6
    assert sum(line.get("outcome") == "reply" for line in ledger(tmp_path / "out")) == 6


def test_tokens_are_capped_before_a_request_is_sent(tmp_path: Path, servers: Any) -> None:
    server = servers()
    assert evaluate(tmp_path, {"far": remote(server.url, tokens=30)}) == 1
    assert server.bodies == []


def test_parameters_of_an_endpoint_can_be_left_out_and_reasoning_is_no_answer(tmp_path: Path, servers: Any) -> None:
    server, out = servers(), tmp_path / "out"
    server.right = {prompt: f"<think>{{}} or not</think>\n{answer}" for prompt, answer in server.right.items()}
    extra = {"temperature": None, "seed": None, "top_p": 0.5}
    assert evaluate(tmp_path, {"far": remote(server.url, extra=extra)}, measures=["accuracy"]) == 0
    assert all(body["top_p"] == 0.5 and not {"temperature", "seed"} & body.keys() for body in server.bodies)
    assert [answer["text"] for answer in answers(out, "far").values()] == [row.answer.strip() for row in ROWS]
    assert results(out, system="far")[0]["accuracy"] == 1.0


def test_a_refused_prompt_has_no_answer(tmp_path: Path, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that the server refuses (by a filter, for example) is reported and does not count as wrong."""
    server, out = servers(), tmp_path / "out"

    def plan_faults(self: AnswerServer, body: dict[str, Any]) -> Sequence[str]:
        return ["400"] if body["messages"][-1]["content"] == ROWS[4].prompt else ()

    monkeypatch.setattr(AnswerServer, "plan_faults", plan_faults)
    assert evaluate(tmp_path, {"far": remote(server.url, concurrency=1)}) == 0
    assert list(answers(out, "far")) == [row.id for row in ROWS if row is not ROWS[4]]
    assert part(out, "far", "accuracy") == {"answers": 5, "refused": 1}
    assert results(out, system="far")[0]["accuracy"] == 1.0
    assert "far 1" in (out / "report.md").read_text()


def test_a_missing_key_is_an_error_and_no_file_holds_a_key(
    tmp_path: Path, servers: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers()
    systems = {"far": remote(server.url, api_key_env="THE_KEY"), "near": LOCAL}
    assert evaluate(tmp_path, systems) == 2
    error = capsys.readouterr().err
    assert "systems.far: endpoint.api_key_env" in error and "THE_KEY" in error
    assert not (tmp_path / "out" / "parts").exists()
    secret = "a-key-that-nobody-may-read"
    monkeypatch.setenv("THE_KEY", secret)
    assert evaluate(tmp_path, systems) == 0
    assert server.keys == {f"Bearer {secret}"}
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not [file for file in files if secret.encode() in file.read_bytes()]
    # With all answers there, the report is written without the key.
    monkeypatch.delenv("THE_KEY")
    assert evaluate(tmp_path, systems, title="Again") == 0
