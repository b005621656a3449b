"""Single chat completions against prepared HTTP responses."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from typing import Any

import pytest

from prosg.llm.budget import Cost
from prosg.llm.completion import ChatCompletions, ChatReply, EndpointError, TransientError
from prosg.llm.config import EndpointConfig

httpx = pytest.importorskip("httpx")

KEY = "sk-a-key-that-nobody-may-see"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50, "temperature": 0.0, "top_k": 3}
HIGHEST = Cost(1000, 50, 0.5)


def complete(respond: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, **options: Any) -> ChatReply:
    """Sends a request that `respond` answers."""
    monkeypatch.setenv("LLM_KEY", KEY)
    endpoint = EndpointConfig(model="m", api_key_env="LLM_KEY", input_price=1.0, output_price=2.0, **options)

    async def send() -> ChatReply:
        completions = ChatCompletions(endpoint, httpx.MockTransport(respond))
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
        (424, {}, "http 424", 0),
        (499, {}, "http 499", 0),
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


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407])
def test_statuses_that_mean_a_wrong_configuration(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointError, match="127.0.0.1") as error:
        complete(lambda r: httpx.Response(status, json={"error": {"message": f"not {KEY}"}}), monkeypatch)
    assert KEY not in str(error.value) and "***" in str(error.value)
    assert ("/v1" in str(error.value).partition("***")[2]) == (status in (404, 405))


def test_a_text_that_a_moderation_forbids_is_the_requests_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    says = "Your chosen model requires moderation and your input was flagged for violence"
    reply = complete(lambda r: httpx.Response(403, json={"error": {"message": says}}), monkeypatch)
    assert reply.finish == "error" and "http 403" in reply.refusal and says in reply.refusal


@pytest.mark.parametrize(
    "says", ["Your credit balance is too low", "Billing hard limit has been reached", "Insufficient Balance"]
)
def test_a_used_up_account_is_not_the_requests_fault(says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointError, match=says):
        complete(lambda r: httpx.Response(400, json={"error": {"message": says}}), monkeypatch)


def test_a_refused_request_is_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = complete(lambda r: httpx.Response(400, json={"error": {"message": f"bad {KEY}"}}), monkeypatch)
    assert (reply.text, reply.finish, reply.cost) == ("", "error", Cost(0, 0, 0.0))
    assert reply.refusal.startswith("http 400") and KEY not in reply.refusal


NO_COMPLETIONS = {
    "[]": "[]",
    '{"choices": []}': "choices",
    '{"choices": [{"message": {}}]}': "choices",
    '{"choices": [{"message": "Hi"}]}': "choices",
    '{"choices": {"message": {"content": "Hi"}}}': "choices",
    '{"error": {"message": "out of memory"}}': "out of memory",
    json.dumps(completion(3)): "no text",
    "no JSON": "not JSON",
    "<!doctype html><p>Welcome": "a web page",
    "": "an empty reply",
    "[" * 5000 + "]" * 5000: "brackets",
    '{"choices": ' + "1" * 5000 + "}": "digits",
    "data: no JSON": "not JSON",
    'data: {"error": "out of memory"}': "out of memory",
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("content", "said"), NO_COMPLETIONS.items(), ids=map(str, range(len(NO_COMPLETIONS))))
def test_what_is_no_completion_is_never_a_reply(
    content: str, said: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content.startswith("data:") and not streamed:
        said = "not JSON"
    with pytest.raises(TransientError, match="no chat completion") as error:
        complete(lambda request: httpx.Response(200, text=content), monkeypatch, stream=streamed)
    assert error.value.reason == "no chat completion" and said in error.value.detail
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_a_reply_without_content_names_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError, match="http 204, an empty reply"):
        complete(lambda request: httpx.Response(204), monkeypatch)


def test_a_completion_of_text_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = {"text": "Hello", "finish_reason": "length"}
    reply = complete(lambda request: httpx.Response(200, json={"choices": [choice]}), monkeypatch)
    assert (reply.text, reply.finish, reply.model) == ("Hello", "length", "m")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_names_its_place(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def respond(request: Any) -> Any:
        sent.append(request)
        return httpx.Response(status, headers={"Location": f"https://elsewhere.example/{KEY}"})

    with pytest.raises(EndpointError, match=r"redirects .*https://elsewhere\.example/\*\*\*"):
        complete(respond, monkeypatch)
    assert len(sent) == 1


@pytest.mark.parametrize("status", [200, 400])
def test_a_reply_without_end_is_not_read_to_its_end(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 2**20
            yield b" " * 2**20

    with pytest.raises(TransientError, match="more than 16,777,216 bytes"):
        complete(lambda request: httpx.Response(status, content=pieces()), monkeypatch)
    assert read <= 18 * 2**20


def test_a_compressed_reply_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(json.dumps(completion("Hello")).encode())
    head = {"Content-Encoding": "gzip"}
    with pytest.raises(TransientError, match="compressed by gzip"):
        complete(lambda request: httpx.Response(200, headers=head, content=content), monkeypatch)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"prompt_tokens": -5, "completion_tokens": 2}, (1000, 2)),
        ({"prompt_tokens": 5, "completion_tokens": -2}, (5, 50)),
        ({"prompt_tokens": 10**30, "completion_tokens": 10**30}, (1000, 50)),
        ({"prompt_tokens": 1001, "completion_tokens": 51}, (1000, 50)),
        ({"prompt_tokens": 5.0, "completion_tokens": "2"}, (1000, 50)),
        ({"prompt_tokens": True, "completion_tokens": True}, (1000, 50)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (1000, 50)),
        ({"prompt_tokens": 5}, (1000, 6)),
        ([5, 2], (1000, 6)),
        ({"prompt_tokens": 1000, "completion_tokens": 50}, (1000, 50)),
    ],
    ids=str,
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_count_that_cannot_be_counts_as_booked(
    usage: Any, cost: tuple[int, int], streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def respond(request: Any) -> Any:
        if streamed:
            return stream(piece("Hello", "stop"), {"choices": [], "usage": usage})
        return httpx.Response(200, json=completion("Hello", usage=usage))

    assert complete(respond, monkeypatch, stream=streamed).cost[:2] == cost


THOUGHT = "The user greets. {}"
PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, {"type": "text", "text": "Hello"}]


@pytest.mark.parametrize(
    "message",
    [
        {"content": f"<think>\n{THOUGHT}\n</think>\n\nHello"},
        {"content": f"{THOUGHT}\n</think>\n\nHello"},
        {"content": "Hello", "reasoning_content": THOUGHT},
        {"content": "Hello", "reasoning": THOUGHT},
        {"content": PARTS},
    ],
    ids=["tags", "closing tag", "reasoning_content", "reasoning", "parts"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning_is_kept_beside_the_answer(
    message: dict[str, Any], streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def respond(request: Any) -> Any:
        if streamed:
            return stream({"choices": [{"delta": message}]}, piece("", "stop"))
        return httpx.Response(200, json={"choices": [{"message": message}]})

    reply = complete(respond, monkeypatch, stream=streamed)
    assert (reply.text, reply.reasoning) == ("Hello", THOUGHT)
    assert (reply.to_record("id")["reply"], reply.to_record("id")["reasoning"]) == ("Hello", THOUGHT)


def test_half_a_letter_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps(completion("half \ud83d, whole \U0001f600"))
    assert complete(lambda r: httpx.Response(200, text=content), monkeypatch).text == "half \ufffd, whole \U0001f600"


@pytest.mark.parametrize("streamed", [False, True])
def test_no_field_of_a_reply_holds_the_key(streamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(request: Any) -> Any:
        content = f"<think>{KEY}</think>{KEY}"
        if streamed:
            head = {"model": KEY}
            return stream(piece(content[:20]) | head, piece(content[20:], KEY) | head)
        choice = {"message": {"content": content, "refusal": KEY}, "finish_reason": KEY}
        return httpx.Response(200, json={"choices": [choice], "model": KEY})

    reply = complete(respond, monkeypatch, stream=streamed)
    assert reply.finish == reply.text == reply.reasoning == reply.model == "***"
    assert KEY not in str(reply)


@pytest.mark.parametrize("before", range(60, 320, 7))
def test_no_part_of_the_key_is_left_where_a_text_is_shortened(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "x" * before + KEY
    choice = {"message": {"content": "Hello"}, "finish_reason": said}
    reply = complete(lambda r: httpx.Response(200, json={"choices": [choice], "model": said}), monkeypatch)
    assert KEY[:5] not in reply.finish + reply.model
    for status, content in ((200, said), (200, json.dumps({"error": said})), (401, said), (400, said)):
        try:
            shown = str(complete(lambda r, s=status, c=content: httpx.Response(s, text=c), monkeypatch))  # type: ignore[misc]
        except (EndpointError, TransientError) as error:
            shown = str(error)
        assert KEY[:5] not in shown and len(shown) < 500


@pytest.mark.parametrize("text", [f"<p>{KEY}", json.dumps({"error": {"message": KEY}}), json.dumps({"choices": KEY})])
def test_no_error_about_a_reply_holds_the_key(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError) as error:
        complete(lambda request: httpx.Response(200, text=text), monkeypatch)
    assert KEY not in str(error.value) and "***" in str(error.value)


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


def test_events_without_choices_are_no_fault_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    events = (piece("Hel"), {"type": "ping"}, piece("lo", "stop"), {"choices": None}, usage)
    reply = complete(lambda request: stream(*events), monkeypatch, stream=True)
    assert (reply.text, reply.finish, reply.cost[:2]) == ("Hello", "stop", (3, 2))
    with pytest.raises(TransientError, match="broken off.*overloaded"):
        complete(lambda request: stream(piece("Hel"), {"error": "overloaded"}), monkeypatch, stream=True)


def test_a_truncated_stream_may_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError, match="broken off"):
        complete(lambda request: stream(piece("Hel")), monkeypatch, stream=True)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("said", "finish"),
    [("model_length", "length"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("eos", "eos"), ("", "stop")],
)
def test_other_words_for_finish_reasons_are_understood(
    streamed: bool, said: str, finish: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = completion("Hel")
    whole["choices"][0]["finish_reason"] = said
    pieces = (piece("Hel", said), piece("", said or "stop"))
    reply = complete(
        lambda request: stream(*pieces) if streamed else httpx.Response(200, json=whole), monkeypatch, stream=streamed
    )
    assert (reply.text, reply.finish) == ("Hel", finish)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("finish", ["error", "abort", "insufficient_system_resource", "NETWORK_ERROR"])
def test_what_a_server_broke_off_is_no_reply(streamed: bool, finish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = completion("Hel")
    whole["choices"][0]["finish_reason"] = finish
    answer = stream(piece("Hel", finish)) if streamed else httpx.Response(200, json=whole)
    with pytest.raises(TransientError, match=f"broken off.*{finish.lower()}"):
        complete(lambda request: answer, monkeypatch, stream=streamed)


def test_what_a_server_says_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransientError) as error:
        complete(lambda request: httpx.Response(500, text="out\x1b[2J\x07 of\nmemory"), monkeypatch)
    assert error.value.detail == "out\ufffd[2J\ufffd of memory"


@pytest.mark.parametrize("proxy", ["socks4://user:secret@127.0.0.1:9", "http://user:secret@127.0.0.1:x"])
def test_a_proxy_that_cannot_be_used_is_named(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(EndpointError, match="127.0.0.1.*ALL_PROXY") as error:
        ChatCompletions(EndpointConfig())
    assert "secret" not in str(error.value)
