"""A chat server on loopback that misbehaves on purpose, and knows the result of a build that copes with it.

It serves POST /v1/chat/completions over real HTTP, whole or streamed. A hash of the request alone decides what happens:
first some faults (429 with Retry-After, 500, 503, a time-out, a truncated reply), then a reply, which may itself be bad
(no JSON, another schema, a refusal, cut off at the limit). `ChatServer.valid` is the set of pairs in a correct build.

    PYTHONPATH=tests python -m support.chat_server [--port 8123]    to try a build by hand
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

from prosg.data.synthetic import words

FAULTS = ("429", "429", "500", "503", "cut", "cut")
BAD = ("no json", "schema", "refusal", "length")
VERBS = ("Describe", "Praise", "Draw in words", "Invent", "Remember", "Sell", "Explain", "Complain about")
FORMS = ("in a letter", "as a poem", "like a judge", "for a child", "in two lines", "as an advert", "on a postcard")
DOINGS = ("name two uses of", "say who might own", "ask about", "give a title to", "compare the rain with", "count")
THIRDS = ("say goodbye to", "thank", "warn", "greet", "write a wish for")


def digest(body: dict[str, Any]) -> str:
    """A hash of the request without parameters of transport."""
    content = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ChatServer(ThreadingHTTPServer):
    """The server, and counts of what it has done.

    Args:
        port: 0 for any free one.
        faults: Share of requests that meet faults before their reply.
        bad: Share of requests whose reply is bad.
        patience: The client's time-out in seconds.
        delay: Seconds before any reply.
        timeouts: Share of the requests with faults whose first fault is a time-out.
        retry_after: Values of the Retry-After header.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        *,
        port: int = 0,
        faults: float = 0.4,
        bad: float = 0.15,
        patience: float = 1.0,
        delay: float = 0.0,
        timeouts: float = 0.3,
        retry_after: Sequence[str] = ("0.2", "1"),
    ) -> None:
        super().__init__(("127.0.0.1", port), ChatHandler)
        self.faults, self.bad, self.patience, self.delay = faults, bad, patience, delay
        self.timeouts, self.retry_after = timeouts, retry_after
        self.lock = threading.Lock()
        self.drafts: dict[str, dict[str, Any]] = {}
        self.answers: dict[tuple[str, str], list[str]] = {}
        self.valid: set[tuple[str, str]] = set()
        self.seen: Counter[str] = Counter()  # requests, by hash
        self.complete: Counter[str] = Counter()  # replies that were sent to their end, by hash
        self.outcomes: Counter[str] = Counter()
        self.tokens = 0
        self.keys: set[str] = set()
        self.waits: list[float] = []
        self.ready_again: dict[str, float] = {}
        self.says = "no"  # in errors

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def start(self) -> ChatServer:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores connections that a killed client has left."""

    def plan_faults(self, body: dict[str, Any]) -> Sequence[str]:
        """The faults of a request's first attempts: statuses, "cut", "page" or "timeout"."""
        fate = Random(f"fate of {digest(body)}")  # separate, so that a server without faults gives equal replies
        faults = [fate.choice(FAULTS) for _ in range(fate.randint(1, 3))] if fate.random() < self.faults else []
        if faults and fate.random() < self.timeouts:
            faults[0] = "timeout"
        return faults

    def write_reply(self, body: dict[str, Any], rng: Random) -> tuple[str, str]:
        """The reply's text and finish reason."""
        kind = body.get("response_format", {}).get("json_schema", {}).get("name", "answer")
        bad = rng.choice(BAD) if rng.random() < self.bad else ""
        if bad == "refusal":
            return "I'm sorry, but I can't help with that.", "stop"
        if kind == "musi_prompts":
            return self._drafts(rng, bad)
        if kind == "musi_verdicts":
            return self._verdicts(body, rng, bad)
        return self._answer(body, rng, bad)

    def _drafts(self, rng: Random, bad: str) -> tuple[str, str]:
        drafts = [self._draft(rng) for _ in range(5)]
        if bad == "no json":
            return "Here they are: " + json.dumps(drafts)[:-40], "stop"
        if bad == "schema":
            return json.dumps({"prompts": [{"prompt": draft["prompt"], "steps": 2} for draft in drafts]}), "stop"
        if bad == "length":
            return json.dumps({"prompts": drafts})[:200], "length"
        with self.lock:
            self.drafts.update({draft["prompt"]: draft for draft in drafts})
        text = json.dumps({"prompts": drafts})
        return (f"```json\n{text}\n```" if rng.random() < 0.2 else text), "stop"

    def _draft(self, rng: Random) -> dict[str, Any]:
        def thing() -> str:
            return f"the {rng.choice(words.ADJECTIVES)} {rng.choice(words.OBJECTS)} of {rng.choice(words.NAMES)}"

        steps = [f"{rng.choice(VERBS)} {thing()} {rng.choice(FORMS)}", f"{rng.choice(DOINGS)} {thing()}"]
        if rng.random() < 0.4:
            steps.append(f"{rng.choice(THIRDS)} {rng.choice(words.NAMES)} at the {rng.choice(words.PLACES)}")
        checks = []
        if rng.random() < 0.3:
            code = str(rng.randrange(1000, 9999))
            steps.append(f"repeat the code {code}")
            checks.append({"stage": len(steps), "type": "contains", "text": None, "items": [code], "min": None})
        if rng.random() < 0.05:
            steps = steps[:1]
            checks = []
        prompt = ", then ".join(steps) + "."
        return {"prompt": prompt, "sub_instructions": steps, "domain_knowledge": 0, "checks": checks}

    def _answer(self, body: dict[str, Any], rng: Random, bad: str) -> tuple[str, str]:
        prompt = body["messages"][-1]["content"]
        steps = self.drafts[prompt]["sub_instructions"]
        lines = [self._line(step, rng) for step in steps]
        missing = rng.randrange(len(lines)) if rng.random() < 0.1 else None
        if missing is not None:
            lines[missing] = f"Nothing comes to mind, number {rng.randrange(10**6)}."
        answer = "\n".join(lines)
        if bad == "length":
            return answer[:30], "length"
        with self.lock:
            self.answers[prompt, answer] = ["no" if place == missing else "yes" for place in range(len(steps))]
        return answer, "stop"

    def _line(self, step: str, rng: Random) -> str:
        code = "".join(char for char in step if char.isdigit())
        made = " ".join(rng.choice(words.SUBJECTS) for _ in range(4))
        return f"Number {rng.randrange(10**6)}: {made} {code}".strip() + "."

    def _verdicts(self, body: dict[str, Any], rng: Random, bad: str) -> tuple[str, str]:
        text = body["messages"][-1]["content"]
        prompt, answer = (part.partition("\n>>>")[0] for part in text.split("<<<\n")[1:3])
        followed = self.answers[prompt, answer]
        verdicts = [
            {"step": number, "followed": verdict, "quote": line.rpartition(" ")[0] if verdict == "yes" else ""}
            for number, (verdict, line) in enumerate(zip(followed, answer.split("\n"), strict=True), 1)
        ]
        if bad == "no json":
            return "Yes to all of it.", "stop"
        if bad == "schema":
            return json.dumps({"verdicts": verdicts[:-1]}), "stop"
        if bad == "length":
            return json.dumps({"verdicts": verdicts})[:20], "length"
        if "no" not in followed:
            with self.lock:
                self.valid.add((prompt, answer))
        return json.dumps({"verdicts": verdicts}), "stop"


class ChatHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = digest(body)
        rng = Random(name)
        faults = server.plan_faults(body)
        with server.lock:
            attempt = server.seen[name]
            server.seen[name] += 1
            server.keys.add(self.headers.get("Authorization", ""))
            if name in server.ready_again:
                server.waits.append(time.monotonic() - server.ready_again.pop(name))
        time.sleep(server.delay)
        fault = faults[attempt] if attempt < len(faults) else ""
        text, finish = server.write_reply(body, rng) if fault in ("", "cut") else ("", "")
        with server.lock:
            server.outcomes[fault or "reply"] += 1
        if fault.isdigit():
            self._fail(int(fault), name, rng)
        elif fault == "page":
            self._respond(200, b"<!doctype html><p>Welcome")
        elif fault == "timeout":
            time.sleep(server.patience * 1.5)
            self.close_connection = True
        else:
            self._send(body, name, text, finish, cut=fault == "cut")

    def _fail(self, status: int, name: str, rng: Random) -> None:
        content = {"error": {"message": f"{self.server.says}, {self.headers.get('Authorization')}"}}
        headers = {}
        if status == 429:
            wait = rng.choice(self.server.retry_after)
            headers["Retry-After"] = wait
            with self.server.lock:
                self.server.ready_again[name] = time.monotonic() + float(wait)
        self._respond(status, json.dumps(content).encode(), headers)

    def _respond(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _send(self, body: dict[str, Any], name: str, text: str, finish: str, *, cut: bool) -> None:
        usage = {"prompt_tokens": len(json.dumps(body["messages"])) // 4, "completion_tokens": len(text) // 4 + 1}
        usage["total_tokens"] = sum(usage.values())
        base = {"id": name[:12], "created": 0, "model": body["model"]}
        self.send_response(200)
        if body.get("stream"):
            pieces = [text[place : place + 60] for place in range(0, len(text), 60)]
            deltas = [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces]
            choices: list[list[dict[str, Any]]] = [[delta] for delta in deltas]
            choices += [[{"index": 0, "delta": {}, "finish_reason": finish}], []]
            chunks = [{**base, "object": "chat.completion.chunk", "choices": chunk} for chunk in choices]
            chunks[-1]["usage"] = usage
            content = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
            self.send_header("Content-Type", "text/event-stream")
        else:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            content = json.dumps({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
            self.send_header("Content-Type", "application/json")
        data = content.encode()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) * 2 // 3])
            self.close_connection = True
            return
        self.wfile.write(data)
        with self.server.lock:
            self.server.complete[name] += 1
            self.server.tokens += usage["total_tokens"]


def server_factory(server_class: type[ChatServer]) -> Iterator[Any]:
    """For a fixture: yields a function that starts servers with options, and shuts all of them down afterwards."""
    servers: list[ChatServer] = []

    def start(**options: Any) -> ChatServer:
        servers.append(server_class(**options))
        return servers[-1].start()

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8123)
    running = ChatServer(port=parser.parse_args().port)
    print(running.url)
    running.serve_forever()
