"""Requests over real HTTP that are recorded, retried, capped and resumed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prosg.llm.client import Shortfall
from prosg.llm.completion import ChatRequest, EndpointError
from prosg.llm.config import BudgetConfig, EndpointConfig
from prosg.llm.request_log import RequestLog
from prosg.utils.store import Log, read_log
from support.chat_server import ChatServer, server_factory

DEAD = "http://127.0.0.1:9/v1"
CAPS = BudgetConfig(1000, 10**6)


class EchoServer(ChatServer):
    """Repeats the prompt; with `planned`, the faults of a prompt are those that are given for it."""

    def __init__(self, *, planned: Mapping[str, Sequence[str]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.planned = planned

    def plan_faults(self, body: dict[str, Any]) -> Sequence[str]:
        prompt = body["messages"][-1]["content"]
        return super().plan_faults(body) if self.planned is None else self.planned.get(prompt, ())

    def write_reply(self, body: dict[str, Any], rng: Random) -> tuple[str, str]:
        return body["messages"][-1]["content"], "stop"


@pytest.fixture
def servers() -> Iterator[Any]:
    yield from server_factory(EchoServer)


def request_all(
    folder: Path,
    url: str,
    texts: Sequence[str],
    caps: BudgetConfig = CAPS,
    *,
    body: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[dict[str, str], Shortfall]:
    """Requests an echo of each text; returns the replies and what is missing."""
    fast: dict[str, Any] = {"backoff": 0.01, "timeout": 5.0, "api_key_env": ""}
    endpoint = EndpointConfig(url, "m", **(fast | options))
    common = {"model": "m", "max_tokens": 9, **(body or {})}
    requests = [ChatRequest(text, common | {"messages": [{"role": "user", "content": text}]}) for text in texts]

    async def run() -> tuple[dict[str, str], Shortfall]:
        log = RequestLog(folder, ("echo",), caps)
        replies = log.replies["echo"]
        try:
            await log.request_all("echo", "echo", endpoint, requests, lambda r: None if r.id in replies else r)
        finally:
            await log.close()
        return {name: reply["reply"] for name, reply in replies.items()}, log.shortfall

    return asyncio.run(run())


def test_faults_are_retried_and_replies_are_never_requested_again(tmp_path: Path, servers: Any) -> None:
    server = servers(faults=1.0, timeouts=0.0, retry_after=("0.05",))
    texts = [f"text {number}" for number in range(8)]
    replies, shortfall = request_all(tmp_path, server.url, [*texts, texts[0]])
    assert replies == {text: text for text in texts} and not shortfall
    sent = sum(server.seen.values())
    assert sent > len(texts) and min(server.waits) >= 0  # Retry-After is obeyed
    assert request_all(tmp_path, server.url, texts) == (replies, Shortfall())
    assert sum(server.seen.values()) == sent
    lines = read_log(tmp_path / "ledger.jsonl")
    assert sum(line["event"] == "booked" for line in lines) == sent
    assert sum(line.get("outcome") == "reply" for line in lines) == len(texts)


def test_a_server_that_asks_to_wait_too_long_is_given_up(tmp_path: Path, servers: Any) -> None:
    server = servers(planned={"a": ["429"]}, retry_after=("60",))
    replies, shortfall = request_all(tmp_path, server.url, ["a", "b"], longest_wait=1.0)
    assert replies == {"b": "b"} and shortfall.given_up == 1 and "60 s" in shortfall.reason


def booked(folder: Path) -> int:
    return sum(line["event"] == "booked" for line in read_log(folder / "ledger.jsonl"))


def test_a_server_that_is_not_there_costs_one_request(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="127.0.0.1:9.*no connection.*refused"):
        request_all(tmp_path, DEAD, ["a", "b", "c", "d"])
    assert booked(tmp_path) == 1
    assert read_log(tmp_path / "ledger.jsonl")[1]["tokens_in"] == 0


def test_a_host_without_an_address_costs_one_request(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="nowhere.invalid.*no connection"):
        request_all(tmp_path, "http://nowhere.invalid/v1", ["a", "b"])
    assert booked(tmp_path) == 1


def test_a_server_that_never_replied_is_given_up_with_its_first_request(tmp_path: Path, servers: Any) -> None:
    texts = ["a", "b", "c", "d"]
    server = servers(planned={text: ["503"] * 9 for text in texts})
    with pytest.raises(EndpointError, match="gives no replies: http 503"):
        request_all(tmp_path, server.url, texts, attempts=2)
    assert booked(tmp_path) == sum(server.seen.values()) == 2


def test_a_server_that_stops_to_reply_is_dead_once_three_requests_are_given_up(tmp_path: Path, servers: Any) -> None:
    texts = ["b", "c", "d", "e"]
    server = servers(planned={text: ["503"] * 9 for text in texts})
    options: dict[str, Any] = {"attempts": 2, "concurrency": 1}
    assert request_all(tmp_path, server.url, ["a", *texts[:2]], **options)[1] == Shortfall(2, "http 503")
    with pytest.raises(EndpointError, match="gives no replies .http 503"):
        request_all(tmp_path, server.url, ["x", *texts], **options)


def test_a_page_for_the_first_request_is_a_wrong_address(tmp_path: Path, servers: Any) -> None:
    texts = ["a", "b", "c"]
    server = servers(planned={text: ["page"] * 9 for text in texts})
    with pytest.raises(EndpointError, match="127.0.0.1.*no chat completion.*a web page.*Welcome"):
        request_all(tmp_path, server.url, texts)
    assert booked(tmp_path) == sum(server.seen.values()) == 1 and not read_log(tmp_path / "echo.jsonl")
    server.planned = {"b": ["page"], "c": ["page"] * 9}
    replies, shortfall = request_all(tmp_path, server.url, texts, attempts=3)
    assert replies == {"a": "a", "b": "b"}
    assert (shortfall.given_up, shortfall.reason) == (1, "no chat completion")


@pytest.mark.parametrize(
    ("says", "advice"),
    [
        ("Unsupported value: 'temperature' does not support 0", "temperature: null"),
        ("max_tokens is not supported", "endpoint.token_parameter"),
        ("unknown field", "refuses"),
    ],
)
def test_a_parameter_that_the_server_refuses_is_named(tmp_path: Path, servers: Any, says: str, advice: str) -> None:
    server = servers(planned={text: ["400"] * 9 for text in "abc"})
    server.says = says
    with pytest.raises(EndpointError, match="refuses the first request") as error:
        request_all(tmp_path, server.url, ["a", "b", "c"], body={"temperature": 0})
    assert says in str(error.value) and advice in str(error.value)
    assert booked(tmp_path) == 1


def test_a_parameter_that_is_refused_later_is_no_reply_either(tmp_path: Path, servers: Any) -> None:
    server = servers(planned={text: ["400"] * 9 for text in "bc"})
    assert request_all(tmp_path, server.url, ["a"])[0] == {"a": "a"}
    server.says = "top_p is not supported"
    with pytest.raises(EndpointError, match="top_p: null"):
        request_all(tmp_path, server.url, ["a", "b", "c"], body={"top_p": 1})
    server.says = "too long: lower max_tokens"  # which may be due to the prompt
    assert request_all(tmp_path, server.url, ["a", "b"], body={"top_p": 1})[0] == {"a": "a", "b": ""}


def test_nothing_is_written_after_a_fault(tmp_path: Path, servers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    append, after = Log.append, []

    def fail(self: Log, *records: Mapping[str, Any], **options: Any) -> None:
        if self.path.name == "echo.jsonl" and len(self.records) == 2:
            raise OSError(28, "No space left on device", str(self.path))
        after.append(self.handle)
        append(self, *records, **options)

    monkeypatch.setattr(Log, "append", fail)
    server = servers(faults=0.0, delay=0.05)
    with pytest.raises(OSError, match="No space"):
        request_all(tmp_path, server.url, [f"text {number}" for number in range(12)], concurrency=4)
    assert -1 not in after and len(read_log(tmp_path / "echo.jsonl")) == 2
    assert sum(server.seen.values()) < 12


def test_waiting_for_the_first_reply_is_told(
    tmp_path: Path, servers: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("prosg.llm.waiting.QUIET", 0.01)
    server = servers(planned={"a": ["503"]}, delay=0.1)
    request_all(tmp_path, server.url, ["a"])
    err = capsys.readouterr().err
    assert f"waiting for {server.url}" in err and f"{server.url}: http 503" in err and "attempt 2 of 10" in err


def test_older_records_are_read_without_reasoning_and_without_what_is_no_reply(tmp_path: Path, servers: Any) -> None:
    record = {"finish": "stop", "refusal": "", "tokens_in": 1, "tokens_out": 1, "money": 0.0, "model": "m"}
    old = [{"id": "a", "reply": "<think>{why}</think>A"}, {"id": "b", "reply": "<html>", "finish": "malformed"}]
    old.append({"id": "c", "reply": "half a", "finish": "error"})
    old.append({"id": "d", "reply": "", "finish": "error", "refusal": "http 402: no money left"})
    log = Log(tmp_path / "echo.jsonl")
    log.append(*(record | one for one in old))
    log.close()
    server = servers(faults=0.0)
    for _ in range(2):
        assert request_all(tmp_path, server.url, ["a", "b", "c", "d"])[0] == {"a": "A", "b": "b", "c": "c", "d": "d"}
        assert sum(server.seen.values()) == 3


@pytest.mark.parametrize("change", [{"tokens_in": -1}, {"money": "1"}, {"reply": None}, {"finish": ["stop"]}])
def test_a_damaged_record_is_named_by_its_line(tmp_path: Path, servers: Any, change: dict[str, Any]) -> None:
    server = servers(faults=0.0)
    request_all(tmp_path, server.url, ["a", "b"])
    file = tmp_path / "echo.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], json.dumps(json.loads(lines[1]) | change)]) + "\n")
    with pytest.raises(ValueError, match=rf"echo\.jsonl:2: {next(iter(change))}.*delete the line"):
        request_all(tmp_path, server.url, ["a", "b"])
    file.write_text(lines[0] + "\n")  # as the error says
    assert request_all(tmp_path, server.url, ["a", "b"])[0] == {"a": "a", "b": "b"}


def test_a_refusal_of_the_first_request_is_a_wrong_configuration(tmp_path: Path, servers: Any) -> None:
    server = servers(planned={"bad": ["400"] * 9})
    with pytest.raises(EndpointError, match="first request"):
        request_all(tmp_path, server.url, ["bad"])
    assert read_log(tmp_path / "echo.jsonl") == []
    assert request_all(tmp_path, server.url, ["good"])[0] == {"good": "good"}
    # Later ones are replies to single requests.
    assert request_all(tmp_path, server.url, ["bad"])[0] == {"good": "good", "bad": ""}
    assert read_log(tmp_path / "echo.jsonl")[1]["finish"] == "error"


def test_a_cap_ends_the_requests(tmp_path: Path, servers: Any) -> None:
    server = servers(faults=0.0)
    _, shortfall = request_all(tmp_path, server.url, ["a", "b", "c"], BudgetConfig(2, 10**6), concurrency=1)
    assert "budget.requests" in shortfall.cap and sum(server.seen.values()) == 2


@pytest.mark.parametrize(("given_up", "cap"), [(2, ""), (0, "budget.tokens: x")])
def test_the_summary_names_what_is_missing(tmp_path: Path, capsys: Any, given_up: int, cap: str) -> None:
    log = RequestLog(tmp_path, ("echo",), CAPS)
    assert log.print_summary() == 0 and not capsys.readouterr().err
    log.shortfall = Shortfall(given_up, "time-out", cap)
    assert log.print_summary() == 1
    assert (cap or "2 requests") in capsys.readouterr().err
