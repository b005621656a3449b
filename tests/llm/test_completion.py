"""Single chat completions against prepared HTTP responses."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from prosg.llm.budget import Cost
from prosg.llm.completion import ChatCompletions, ChatReply, EndpointError, TransientError
from prosg.llm.config import EndpointConfig

httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

KEY = "sk-a-key-that-nobody-may-see"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50, "temperature": 0.0, "top_k": 3}
HIGHEST = Cost(1000, 50, 0.5)


def complete(respond: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, **options: Any) -> ChatReply:
    """Sends a request that `respond` answers."""
    monkeypatch.setenv("LLM_KEY", KEY)
    endpoint = EndpointConfig(model="m", api_key_env="LLM_KEY", input_price=1.0, output_price=2.0, **options)

    async def send() -> ChatReply:
        completions = ChatCompletions(endpoint)
        completions.client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=KEY,
            max_retries=0,
            http_client=httpx.AsyncClient(transport=httpx.MockTransport(respond)),
        )
        try:
            return await completions.complete(BODY, HIGHEST)
        finally:
            await completions.close()

    return asyncio.run(send())


def completion(content: Any, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "served", "choices": [choice], **more}


def test_a_reply_has_text_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def respond(request: Any) -> Any:
        sent.append(request)
        return httpx.Response(200, json=completion("Hello", usage={"prompt_tokens": 10, "completion_tokens": 4}))

    reply = complete(respond, monkeypatch)
    assert reply == ChatReply("Hello", "stop", "", Cost(10, 4, 18e-6), "served")
    assert json.loads(sent[0].content) == BODY and sent[0].headers["Authorization"] == f"Bearer {KEY}"
    assert reply.to_record("id")["reply"] == "Hello" and reply.to_record("id")["tokens_in"] == 10


def test_a_server_that_does_not_count_costs_at_most_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = complete(lambda request: httpx.Response(200, json=completion("häh")), monkeypatch)
    assert reply.cost == Cost.of(EndpointConfig(input_price=1.0, output_price=2.0), HIGHEST.tokens_in, 5)


@pytest.mark.parametrize(
    ("status", "headers", "reason", "wait"),
    [
        (408, {}, "http 408", 0),
        (409, {}, "http 409", 0),
        (429, {"Retry-After": "2.5"}, "http 429", 2.5),
        (429, {"retry-after-ms": "300"}, "http 429", 0.3),
        (429, {"Retry-After": "soon"}, "http 429", 0),
        (503, {}, "http 503", 0),
    ],
)
def test_statuses_that_may_be_retried(
    status: int, headers: dict[str, str], reason: str, wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TransientError) as error:
        complete(lambda request: httpx.Response(status, headers=headers), monkeypatch)
    assert (error.value.reason, error.value.wait) == (reason, wait)


def test_a_server_may_name_the_time_of_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Retry-After": formatdate(time.time() + 1000, usegmt=True)}
    with pytest.raises(TransientError) as error:
        complete(lambda request: httpx.Response(429, headers=headers), monkeypatch)
    assert error.value.wait == pytest.approx(1000, abs=60)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_statuses_that_mean_a_wrong_configuration(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointError, match="127.0.0.1") as error:
        complete(lambda r: httpx.Response(status, json={"error": {"message": f"not {KEY}"}}), monkeypatch)
    assert KEY not in str(error.value) and "***" in str(error.value)


def test_a_refused_request_is_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = complete(lambda r: httpx.Response(400, json={"error": {"message": f"bad {KEY}"}}), monkeypatch)
    assert (reply.text, reply.finish, reply.cost) == ("", "error", Cost(0, 0, 0.0))
    assert reply.refusal.startswith("http 400") and KEY not in reply.refusal


@pytest.mark.parametrize("content", ["[]", '{"choices": []}', json.dumps(completion(3)), "no JSON"])
def test_a_whole_reply_that_is_no_completion_is_malformed(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = complete(lambda request: httpx.Response(200, text=content), monkeypatch)
    assert (reply.text, reply.finish, reply.cost) == (content, "malformed", HIGHEST)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [("ConnectError", "no connection"), ("ReadError", "broken off"), ("ReadTimeout", "time-out")],
)
def test_lost_connections_may_be_retried(failure: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(request: Any) -> Any:
        raise getattr(httpx, failure)("gone", request=request)

    with pytest.raises(TransientError) as error:
        complete(respond, monkeypatch)
    assert error.value.reason == reason


def stream(*chunks: dict[str, Any]) -> Any:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "served"}
    lines = [f"data: {json.dumps(head | chunk)}\n\n" for chunk in chunks]
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, text="".join(lines))


def piece(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def test_a_stream_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
    sent = []

    def respond(request: Any) -> Any:
        sent.append(json.loads(request.content))
        return stream(piece("Hel"), piece("lo"), piece("", "length"), usage)

    reply = complete(respond, monkeypatch, stream=True)
    assert (reply.text, reply.finish, reply.cost[:2], reply.model) == ("Hello", "length", (3, 2), "served")
    assert sent == [BODY | {"stream": True, "stream_options": {"include_usage": True}}]


def test_a_truncated_stream_may_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError, match="broken off"):
        complete(lambda request: stream(piece("Hel")), monkeypatch, stream=True)
