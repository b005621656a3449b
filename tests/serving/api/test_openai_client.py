"""The official client, as it is, against the command in a process of its own; and clients that misbehave."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from prosg.model.prosg import ProSG
from prosg.serving.api.keys import add_key
from support.api import CODE, Live, live_server

openai = pytest.importorskip("openai")

MESSAGES: Any = [{"role": "user", "content": CODE}]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, str]]:
    """A server that wants keys, and one of them."""
    folder = tmp_path_factory.mktemp("live")
    secret = add_key(folder / "keys.json", "anna", {})
    options = ["--keys", str(folder / "keys.json"), "--prompts", str(folder / "prompts"), "--body-timeout", "1"]
    with live_server(folder, *options, "--max-body-bytes", "100000", "--template", "world") as server:
        yield server, secret


@pytest.fixture(scope="module")
def client(live: tuple[Live, str]) -> Any:
    return openai.OpenAI(base_url=f"{live[0].url}v1", api_key=live[1], max_retries=0, timeout=60)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").owned_by == "prosg"


def test_chat(client: Any) -> None:
    reply = client.chat.completions.create(
        model="demo", messages=MESSAGES, n=2, seed=4, max_completion_tokens=20, logprobs=True, top_logprobs=2
    )
    assert len(reply.choices) == 2 and reply.choices[0].message.role == "assistant"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert len(reply.choices[1].logprobs.content[0].top_logprobs) == 2
    again = client.chat.completions.create(model="demo", messages=MESSAGES, n=2, seed=4, max_completion_tokens=20)
    assert [c.message.content for c in again.choices] == [c.message.content for c in reply.choices]
    other = client.chat.completions.create(model="demo", messages=MESSAGES, n=2, seed=5, max_completion_tokens=20)
    assert [c.message.content for c in other.choices] != [c.message.content for c in reply.choices]
    assert again.usage.prompt_tokens_details.cached_tokens > 0
    follow = [*MESSAGES, reply.choices[0].message, {"role": "user", "content": "And now?"}]
    client.chat.completions.create(model="demo", messages=follow, max_tokens=3, extra_body={"memory": "both"})


def test_a_chat_that_is_streamed(client: Any) -> None:
    options: Any = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 20}
    whole = client.chat.completions.create(**options)
    chunks = [*client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
    )


def test_completions(client: Any, demo: ProSG) -> None:
    text = demo.generate(CODE, temperature=0.0, max_tokens=30)
    reply = client.completions.create(model="demo", prompt=CODE, temperature=0, max_tokens=30, logprobs=1)
    assert reply.choices[0].text == text
    assert "".join(reply.choices[0].logprobs.tokens) == text
    stop = text[12:15]
    stopped = client.completions.create(model="demo", prompt=CODE, temperature=0, max_tokens=30, stop=stop)
    assert stopped.choices[0].text == text.partition(stop)[0] and stopped.choices[0].finish_reason == "stop"
    pieces = client.completions.create(model="demo", prompt=CODE, temperature=0, max_tokens=30, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == text


def test_errors_are_the_clients_own(live: tuple[Live, str], client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="temperatur") as caught:
        client.chat.completions.create(model="demo", messages=MESSAGES, extra_body={"temperatur": 1})
    assert caught.value.param == "temperatur"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    stranger = openai.OpenAI(base_url=f"{live[0].url}v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_stored_prompt_by_its_id(client: Any, demo: ProSG) -> None:
    stored = client.post("/prompts", body={"text": CODE, "memory": "update"}, cast_to=object)
    text = demo.generate(CODE, memory="update", temperature=0.0, max_tokens=20)
    for options in ({"model": f"demo:{stored['id']}"}, {"model": "demo", "extra_body": {"prompt_id": stored["id"]}}):
        reply = client.completions.create(prompt="", temperature=0, max_tokens=20, **options)
        assert reply.choices[0].text == text
    client.delete(f"/prompts/{stored['id']}", cast_to=object)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model=f"demo:{stored['id']}", prompt="")


def connect(live: tuple[Live, str]) -> socket.socket:
    place = urlsplit(live[0].url)
    assert place.hostname is not None
    return socket.create_connection((place.hostname, place.port), timeout=30)


def request_bytes(live: tuple[Live, str], path: str, length: int, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {live[1]}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode() + body


def test_slow_bodies_are_408_and_huge_ones_413(live: tuple[Live, str]) -> None:
    with connect(live) as slow:
        slow.sendall(request_bytes(live, "/v1/completions", 1000, b'{"model'))
        begun = time.monotonic()
        assert b" 408 " in slow.recv(4096).split(b"\r\n")[0] and time.monotonic() - begun < 10
    with connect(live) as huge:
        huge.sendall(request_bytes(live, "/v1/completions", 1 << 40, b" " * 200000))
        assert b" 413 " in huge.recv(4096).split(b"\r\n")[0]


def test_what_is_no_http_harms_nobody(live: tuple[Live, str], client: Any) -> None:
    for garbage in (b"\x00" * 100, b"GET / HTTP/9\r\n\r\n", b"GET " + b"x" * 100000, b"POST / HTTP/1.1\r\nA: b\r\n"):
        with connect(live) as other:
            other.sendall(garbage)
            other.shutdown(socket.SHUT_WR)
            other.settimeout(5)
            assert b" 500 " not in other.recv(4096)
    assert client.models.retrieve("demo").id == "demo"


def metric(live: tuple[Live, str], name: str) -> float:
    place = urlsplit(live[0].url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {live[1]}"})
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_written_for_a_client_that_went_away(live: tuple[Live, str], stream: bool) -> None:
    name = 'prosg_finished_total{reason="cancelled"}'
    before = metric(live, name)
    body = {"model": "demo", "prompt": CODE, "max_tokens": 4000, "memory": "none", "temperature": 2, "stream": stream}
    for seed in range(8):  # some answers end by themselves before the client has left
        content = json.dumps({**body, "seed": seed}).encode()
        with connect(live) as leaver:
            leaver.sendall(request_bytes(live, "/v1/completions", len(content), content))
            if stream:
                leaver.recv(1000)
            else:
                time.sleep(0.05)
        for _ in range(20):
            if metric(live, name) > before:
                break
            time.sleep(0.1)
        else:
            continue
        break
    assert metric(live, name) == before + 1
    assert metric(live, "prosg_rows") == 0


def test_a_client_that_does_not_read_holds_up_nobody(live: tuple[Live, str], client: Any) -> None:
    body = {"model": "demo", "prompt": CODE, "max_tokens": 400, "n": 8, "stream": True, "logprobs": 5}
    content = json.dumps({**body, "memory": "none", "temperature": 2}).encode()
    with connect(live) as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        idle.sendall(request_bytes(live, "/v1/completions", len(content), content))
        idle.recv(100)
        for _ in range(3):
            reply = client.completions.create(model="demo", prompt=CODE, max_tokens=5, temperature=0)
            assert reply.usage.completion_tokens == 5
        for _ in range(200):  # its own answers are written meanwhile
            if metric(live, "prosg_rows") == 0:
                break
            time.sleep(0.1)
        assert metric(live, "prosg_rows") == 0
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received = (received + idle.recv(1 << 16))[-100:]
        assert b"[DONE]" in received


def test_sigterm_lets_answers_end_and_takes_no_more(tmp_path: Path) -> None:
    with live_server(tmp_path, "--drain", "30") as server:
        client = openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0, timeout=60)
        body: Any = {"model": "demo", "prompt": CODE, "max_tokens": 600, "temperature": 2, "seed": 1}
        stream = client.completions.create(**body, stream=True, extra_body={"memory": "none"})
        next(stream)
        server.process.send_signal(signal.SIGTERM)
        texts: list[Any] = []
        reader = threading.Thread(target=lambda: texts.extend(stream))
        reader.start()
        time.sleep(0.5)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
        reader.join(60)
        assert texts[-1].choices[0].finish_reason in ("stop", "length")
        assert server.process.wait(30) == 0


def test_sigterm_ends_what_takes_too_long(tmp_path: Path) -> None:
    with live_server(tmp_path, "--drain", "1", "--max-output-tokens", "1000000") as server:
        client = openai.OpenAI(base_url=f"{server.url}v1", api_key="none", max_retries=0, timeout=60)
        body: Any = {"model": "demo", "prompt": CODE, "max_tokens": 1000000, "temperature": 2, "seed": 1}
        stream = client.completions.create(**body, stream=True, extra_body={"memory": "none", "top_k": 1})
        next(stream)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 15
