"""A server under load: whole and streamed answers, clients that go away, garbage, wrong keys, others' prompts.

    python benchmarks/load.py [--seconds 60] [--clients 16] [--rows 16] [--queue 64] [--out FILE]

Starts `prosg serve demo` with two keys and sends for so long, from as many clients at once, what each of `KINDS` does,
drawn at random, with the official client and without it. Each kind says which statuses are right; any other is a
mistake, as are a traceback in the server's log, and tokens that `/metrics` does not account for:

- under load the tokens written are at least those in the replies' usage, and at most what clients that went away could
  have had beside them; every answer that was submitted has ended;
- in a last round, in which nobody goes away, they are equal, read, cached and written.

Prints how often each kind met which status, the seconds to an answer, and the server's resident memory at the end of
each minute. Exits with 1 after a mistake.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
from _common import commit
from _server import Server, started

from prosg.cli.scripts import ScriptParser, positive_float, positive_int, run_script
from prosg.utils.environment import processor
from prosg.utils.io import write_json

OWNERS = ["ann", "bob"]
MODEL = "demo"
MOST_TOKENS = 60
MINUTE = 60.0
"""Seconds between two measurements of memory."""
MEMORIES = ("none", "anchor", "update", "both", "auto")


@dataclass
class Totals:
    """What clients saw."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unknown_tokens: int = 0
    """that answers could have had whose usage nobody has seen"""
    mistakes: list[str] = field(default_factory=list)


class Client:
    """One client, which does one thing after the other."""

    def __init__(self, server: Server, seed: int, totals: Totals) -> None:
        self.draw, self.totals = random.Random(seed), totals
        self.owner = OWNERS[seed % len(OWNERS)]
        self.key, self.url = server.keys[self.owner], server.url
        self.other_key = server.keys[OWNERS[(seed + 1) % len(OWNERS)]]
        self.openai = openai.AsyncOpenAI(base_url=f"{server.url}v1", api_key=self.key, max_retries=0, timeout=120)
        self.http = httpx.AsyncClient(base_url=server.url, headers=_bearer(self.key), timeout=120)

    async def close(self) -> None:
        await self.openai.close()
        await self.http.aclose()

    def secret(self) -> str:
        return f"The code is {self.draw.randrange(100_000, 1_000_000)}. Tell a story, then give the code."

    def options(self) -> dict[str, Any]:
        """Options that every kind of answer takes."""
        return {
            "model": MODEL,
            "max_tokens": self.draw.randrange(1, MOST_TOKENS),
            "seed": self.draw.randrange(1 << 40),
            "temperature": self.draw.choice([0.0, 0.8, 1.3]),
            "extra_body": {"memory": self.draw.choice(MEMORIES)},
        }

    def count(self, usage: Any) -> None:
        self.totals.prompt_tokens += usage.prompt_tokens
        self.totals.completion_tokens += usage.completion_tokens

    async def chat(self) -> int:
        turns: list[Any] = [{"role": "user", "content": self.secret()}]
        if self.draw.random() < 0.5:
            turns += [{"role": "assistant", "content": "Once there was a cat."}, {"role": "user", "content": "And?"}]
        reply = await self.openai.chat.completions.create(
            messages=turns, n=self.draw.choice([1, 1, 3]), **self.options()
        )
        self.count(reply.usage)
        return 200

    async def streamed_chat(self) -> int:
        turns: list[Any] = [{"role": "user", "content": self.secret()}]
        stream = await self.openai.chat.completions.create(
            messages=turns, stream=True, stream_options={"include_usage": True}, **self.options()
        )
        usage = None
        async for chunk in stream:
            usage = chunk.usage or usage
        if usage is None:
            raise ValueError("a stream ended without its usage")
        self.count(usage)
        return 200

    async def completion(self) -> int:
        prompts = [self.secret() for _ in range(self.draw.choice([1, 1, 4]))]
        reply = await self.openai.completions.create(
            prompt=prompts, logprobs=self.draw.choice([None, 3]), stop=self.draw.choice([None, ["."]]), **self.options()
        )
        self.count(reply.usage)
        return 200

    async def ids(self) -> int:
        """A prompt of token ids, long ones among them."""
        length = self.draw.choice([1, 7, 50, 300, 1000])
        prompt = [self.draw.randrange(1, 500) for _ in range(length)]
        reply = await self.openai.completions.create(prompt=prompt, **self.options())
        self.count(reply.usage)
        return 200

    async def stored(self) -> int:
        """Stores a prompt, uses it, has another key ask for it, and deletes it."""
        body = {"text": self.secret(), "memory": "update"}
        reply = await self.http.post("v1/prompts", json=body)
        if reply.status_code != 201:
            return reply.status_code
        name = reply.json()["id"]
        try:
            answer = await self.openai.completions.create(
                prompt="", model=f"{MODEL}:{name}", max_tokens=MOST_TOKENS, seed=1
            )
            self.count(answer.usage)
            self.totals.prompt_tokens -= answer.usage.prompt_tokens  # the engine has not read it for this answer
            theirs = await self.http.get(f"v1/prompts/{name}", headers=_bearer(self.other_key))
            if theirs.status_code != 404:
                raise ValueError(f"another key's prompt: {theirs.status_code}")
        finally:
            await self.http.delete(f"v1/prompts/{name}")
        return 200

    async def leaving(self) -> int:
        """Goes away from a stream."""
        body = {"model": MODEL, "prompt": self.secret(), "max_tokens": 400, "stream": True, "n": 2}
        self.totals.unknown_tokens += 2 * 400
        async with self.http.stream("POST", "v1/completions", json=body) as reply:
            lines = reply.aiter_lines()
            for _ in range(self.draw.randrange(8)):
                await anext(lines, None)
            return int(reply.status_code)

    async def leaving_early(self) -> int:
        """Goes away before there is a reply."""
        body = {"model": MODEL, "prompt": self.secret(), "max_tokens": 400}
        self.totals.unknown_tokens += 400
        try:
            reply = await self.http.post("v1/completions", json=body, timeout=self.draw.choice([0.001, 0.02, 0.1]))
        except httpx.TimeoutException:
            return 0
        return reply.status_code

    async def garbage(self) -> int:
        bodies = [
            b"",
            b"\xff\xfe\x00",
            b"{" * 5000,
            b'{"model": "demo", "messages": "\\ud800"}',
            b'{"model": "demo", "prompt": "a", "max_tokens": 1e400}',
            b'{"model": "demo", "prompt": [' + b"9" * 5000 + b"]}",
            b'{"model": "demo", "prompt": [-1]}',
            b'{"model": "other", "prompt": "a"}',
            b'{"model": "demo:prompt-000000000000000000000000", "prompt": ""}',
            json.dumps({"model": MODEL, "prompt": "a", "n": 10**9}).encode(),
            json.dumps({"model": MODEL, "prompt": "", "tau": -1}).encode(),
            self.draw.randbytes(self.draw.randrange(1, 3000)),
        ]
        path = self.draw.choice(["v1/completions", "v1/chat/completions", "v1/prompts"])
        headers = {"Content-Type": self.draw.choice(["application/json", "text/plain", "image/png"])}
        return (await self.http.post(path, content=self.draw.choice(bodies), headers=headers)).status_code

    async def upload(self) -> int:
        content = self.draw.randbytes(self.draw.choice([0, 7, 100_000]))
        headers = {"Content-Type": "application/octet-stream"}
        return (await self.http.post("v1/prompts/upload", content=content, headers=headers)).status_code

    async def huge(self) -> int:
        """A body over the limit: refused; while it is still sent the connection may be closed."""
        try:
            return (await self.http.post("v1/completions", content=b" " * (3 << 20))).status_code
        except httpx.TransportError:
            return 413

    async def slow(self) -> int:
        """Sends half a request, waits, and goes."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        half = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {self.key}\r\n"
        whole = f"{half}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
        writer.write(self.draw.choice([half, whole, "\0\1\2\r\n\r\n"]).encode())
        await writer.drain()
        await asyncio.sleep(self.draw.random())
        if self.draw.random() < 0.5 and (sock := writer.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset instead of an end
        writer.close()
        return 0

    async def wrong_key(self) -> int:
        wrong = [self.key[:-1] + ("A" if self.key[-1] != "A" else "B"), "prosg-", "-", "é", self.key * 50]
        body = {"model": MODEL, "prompt": self.secret()}
        headers = {b"Authorization": b"Bearer " + self.draw.choice(wrong).encode()}
        return (await self.http.post("v1/completions", json=body, headers=headers)).status_code

    async def pages(self) -> int:
        path = self.draw.choice(["", "health", "ready", "metrics", "v1/models", "v1/prompts", "openapi.json"])
        return (await self.http.get(path)).status_code


ANSWERS: dict[str, Callable[[Client], Awaitable[int]]] = {
    "chat": Client.chat,
    "streamed chat": Client.streamed_chat,
    "completion": Client.completion,
    "token ids": Client.ids,
    "stored prompt": Client.stored,
}
ABUSE: dict[str, tuple[Callable[[Client], Awaitable[int]], tuple[int, ...]]] = {
    "goes away": (Client.leaving, (200, 429)),
    "goes away early": (Client.leaving_early, (0, 200, 429)),
    "garbage": (Client.garbage, (400, 404, 413, 415)),
    "upload of garbage": (Client.upload, (400,)),
    "huge body": (Client.huge, (413,)),
    "half a request": (Client.slow, (0,)),
    "wrong key": (Client.wrong_key, (401,)),
    "pages": (Client.pages, (200,)),
}


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def act(client: Client, name: str) -> None:
    """Does one thing, and takes note of its status."""
    totals, begun = client.totals, time.perf_counter()
    action, right = (ANSWERS[name], (200, 429)) if name in ANSWERS else ABUSE[name]
    try:
        status = await action(client)
    except openai.APIStatusError as error:
        status = error.status_code
        if status == 429 and "retry-after" not in error.response.headers:
            totals.mistakes.append(f"{name}: 429 without Retry-After")
    except Exception as error:  # nothing else may happen
        totals.statuses[name, type(error).__name__] += 1
        totals.mistakes.append(f"{name}: {type(error).__name__}: {error}")
        return
    totals.statuses[name, str(status)] += 1
    if status not in right:
        totals.mistakes.append(f"{name}: status {status}")
    if name in ANSWERS and status == 200:
        totals.seconds.append(time.perf_counter() - begun)


async def load(server: Server, clients: int, seconds: float, totals: Totals) -> list[int]:
    """All kinds for so long; returns resident memory at the end of each minute, and of the time."""
    begun = time.monotonic()
    names = [*ANSWERS, *ABUSE]

    async def run(client: Client) -> None:
        while time.monotonic() - begun < seconds:
            await act(client, client.draw.choice(names))
        await client.close()

    async def measure() -> list[int]:
        found = []
        while (left := begun + seconds - time.monotonic()) > 0:
            await asyncio.sleep(min(left, MINUTE))
            found.append(server.resident())
        return found

    found, *_ = await asyncio.gather(measure(), *(run(Client(server, seed, totals)) for seed in range(clients)))
    return found


async def last_round(server: Server, clients: int, totals: Totals) -> None:
    """Nothing but answers, each client one kind after the other."""

    async def run(client: Client) -> None:
        for name in ANSWERS:
            await act(client, name)
        await client.close()

    await asyncio.gather(*(run(Client(server, 1000 + seed, totals)) for seed in range(clients)))


def idle_metrics(server: Server) -> dict[str, float]:
    """The counters once nothing waits or runs any more."""
    for _ in range(100):
        counters = server.metrics()
        if not any(counters[f"prosg_{name}"] for name in ("waiting", "reading", "rows")):
            break
        time.sleep(0.1)
    return counters


def ended(counters: dict[str, float]) -> float:
    return sum(value for name, value in counters.items() if name.startswith("prosg_finished_total"))


def check(totals: Totals, counters: dict[str, float], before: dict[str, float], is_exact: bool) -> None:
    """Compares what clients saw with what the server counted since `before`."""
    since = {name: value - before.get(name, 0.0) for name, value in counters.items()}
    written = int(since["prosg_written_tokens_total"])
    if not totals.completion_tokens <= written <= totals.completion_tokens + totals.unknown_tokens:
        totals.mistakes.append(
            f"{written} tokens were written; {totals.completion_tokens} are in replies, and at most "
            f"{totals.unknown_tokens} in others"
        )
    if since["prosg_submitted_total"] != ended(counters) - ended(before):
        totals.mistakes.append(f"{since['prosg_submitted_total']:.0f} answers were submitted, others ended")
    read = since["prosg_read_tokens_total"] + since["prosg_cached_tokens_total"]
    if is_exact and read < totals.prompt_tokens:
        totals.mistakes.append(f"{read:.0f} tokens were read or cached; {totals.prompt_tokens} are in replies")


def report(totals: Totals) -> None:
    for name in [*ANSWERS, *ABUSE]:
        found = {status: count for (kind, status), count in sorted(totals.statuses.items()) if kind == name}
        print(f"{name:20}{', '.join(f'{count} x {status}' for status, count in found.items())}")


def quantile(values: list[float], share: float) -> float | None:
    """Of seconds; None where there are none."""
    return round(float(np.quantile(values, share)), 3) if values else None


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("--seconds", type=positive_float, default=60.0)
    parser.add_argument("--clients", type=positive_int, default=16)
    parser.add_argument("--rows", type=positive_int, default=16, help="of the server")
    parser.add_argument("--queue", type=positive_int, default=64, help="of the server")
    parser.add_argument(
        "--cache", type=positive_int, default=4, help="of the server, MiB: full before memory is measured"
    )
    parser.add_out("JSON file for the figures")
    options = parser.parse_args()
    arguments = [f"--{name}={getattr(options, name)}" for name in ("rows", "queue", "cache")]
    with started(OWNERS, *arguments) as server:
        totals, begun = Totals(), time.perf_counter()
        memory = asyncio.run(load(server, options.clients, options.seconds, totals))
        seconds = time.perf_counter() - begun
        counters = idle_metrics(server)
        check(totals, counters, {}, is_exact=False)
        last = Totals(mistakes=totals.mistakes)
        asyncio.run(last_round(server, options.clients, last))
        check(last, idle_metrics(server), counters, is_exact=True)
    report(totals)
    figures = {
        "requests": sum(totals.statuses.values()),
        "seconds": round(seconds, 1),
        "written tokens a second": round(counters["prosg_written_tokens_total"] / seconds),
        "median seconds to an answer": quantile(totals.seconds, 0.5),
        "99 % within, seconds": quantile(totals.seconds, 0.99),
        "answers": len(totals.seconds),
        "resident MB by minute": [round(count / 1e6, 1) for count in memory],
        "mistakes": len(totals.mistakes),
    }
    for name, value in figures.items():
        print(f"{name:32}{value}")
    for mistake, count in Counter(totals.mistakes).most_common(20):
        print(f"mistake, {count} times: {mistake}", file=sys.stderr)
    if options.out:
        content = figures | {"clients": options.clients, "machine": processor(), "commit": commit()}
        write_json(options.out, content)
    return int(bool(totals.mistakes))


if __name__ == "__main__":
    run_script(main)
