"""Requests over real HTTP that are recorded, retried, capped and resumed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prosg.llm.client import Shortfall
from prosg.llm.completion import ChatRequest, EndpointError
from prosg.llm.config import BudgetConfig, EndpointConfig
from prosg.llm.request_log import RequestLog
from prosg.utils.store import read_log
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
    folder: Path, url: str, texts: Sequence[str], caps: BudgetConfig = CAPS, **options: Any
) -> tuple[dict[str, str], Shortfall]:
    """Requests an echo of each text; returns the replies and what is missing."""
    fast: dict[str, Any] = {"backoff": 0.01, "timeout": 5.0, "api_key_env": ""}
    endpoint = EndpointConfig(url, "m", **(fast | options))
    bodies = {text: {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 9} for text in texts}
    requests = [ChatRequest(text, bodies[text]) for text in texts]

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


def test_a_dead_endpoint_is_an_error_once_three_requests_are_given_up(tmp_path: Path) -> None:
    options: dict[str, Any] = {"attempts": 2, "concurrency": 1}
    replies, shortfall = request_all(tmp_path / "few", DEAD, ["a", "b", "c"], **options)
    assert (replies, shortfall.given_up, shortfall.reason) == ({}, 3, "no connection")
    with pytest.raises(EndpointError, match="127.0.0.1:9.*no connection"):
        request_all(tmp_path / "many", DEAD, ["a", "b", "c", "d"], **options)
    ledger = read_log(tmp_path / "many" / "ledger.jsonl")
    assert sum(line["event"] == "booked" for line in ledger) == 6
    assert all(line["tokens_in"] == 0 for line in ledger if line["event"] == "settled")


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
