"""Secrets under concurrency: whether an answer ever names a secret of another request, or of another key.

    python benchmarks/leaks.py [--requests 2000] [--clients 32] [--alone 50] [--out FILE]

Starts `prosg serve demo` with two keys. Every request's prompt gives a code that no other has and wants it back after a
story, under an anchor or an update, as text, as a conversation or as a stored prompt; so many are answered at once. Of
each answer all runs of digits are compared with all codes that were ever sent:

    own       its own code alone
    garbled   digits that nobody's prompt gives
    none      no code
    chance    another request's code, and the same text when it is sent again alone: digits garbled into a code that
              happens to be one, as one in 900,000 / REQUESTS of them are
    leaked    another request's code, and another text alone: must not be

The first `--alone` requests are sent again afterwards, one at a time: the texts must be equal, character for character.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
from _common import commit
from _server import started

from prosg.cli.scripts import ScriptParser, positive_int, run_script
from prosg.utils.environment import processor
from prosg.utils.io import write_json

OWNERS = ["ann", "bob"]
KINDS = ("text", "conversation", "stored")
MEMORIES = ("update", "anchor")
MOST_TOKENS = 80
CODE_DIGITS = re.compile(r"\d{4,}")


def codes(count: int) -> list[str]:
    return [str(code) for code in random.Random(0).sample(range(100_000, 1_000_000), count)]


async def ask(client: httpx.AsyncClient, number: int, code: str, key: str) -> str:
    """One request; returns its answer."""
    prompt = f"The code is {code}. Tell a story, then give the code."
    kind, memory = KINDS[number % len(KINDS)], MEMORIES[number // len(KINDS) % len(MEMORIES)]
    headers = {"Authorization": f"Bearer {key}"}
    body: dict[str, Any] = {"max_tokens": MOST_TOKENS, "seed": number, "temperature": 0.7, "memory": memory}

    async def post(path: str, content: dict[str, Any]) -> Any:
        reply = await client.post(path, json=content, headers=headers)
        reply.raise_for_status()
        return reply.json()

    if kind == "conversation":
        content = body | {"model": "demo", "messages": [{"role": "user", "content": prompt}]}
        return str((await post("v1/chat/completions", content))["choices"][0]["message"]["content"])
    if kind == "text":
        return str((await post("v1/completions", body | {"model": "demo", "prompt": prompt}))["choices"][0]["text"])
    name = (await post("v1/prompts", {"text": prompt}))["id"]
    content = body | {"model": f"demo:{name}", "prompt": ""}
    return str((await post("v1/completions", content))["choices"][0]["text"])


def verdict(answer: str, code: str, sent: set[str]) -> str:
    found = set(CODE_DIGITS.findall(answer))
    if found & (sent - {code}):
        return "leaked"
    if not found:
        return "none"
    return "own" if found == {code} else "garbled"


async def ask_all(
    url: str, keys: list[str], sent: list[str], clients: int, numbers: Sequence[int] | None = None
) -> list[str]:
    """The answers to all requests, or to these, so many at once."""
    asked = range(len(sent)) if numbers is None else numbers
    answers, left, done = [""] * len(sent), iter(asked), 0
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:

        async def work() -> None:
            nonlocal done
            for number in left:
                answers[number] = await ask(client, number, sent[number], keys[number % len(keys)])
                done += 1
                if not done % 500:
                    print(f"{done} of {len(asked)} answered", file=sys.stderr, flush=True)

        await asyncio.gather(*(work() for _ in range(clients)))
    return answers


def main() -> int:
    parser = ScriptParser(__doc__)
    parser.add_argument("--requests", type=positive_int, default=2000)
    parser.add_argument("--clients", type=positive_int, default=32, help="requests at once")
    parser.add_argument("--alone", type=positive_int, default=50, help="requests that are sent again, one at a time")
    parser.add_out("JSON file for the figures")
    options = parser.parse_args()
    sent = codes(options.requests)
    with started(OWNERS, "--queue", str(options.clients), "--cache", "4", "--limits.prompts", "0") as server:
        keys, begun = [server.keys[owner] for owner in OWNERS], time.perf_counter()
        answers = asyncio.run(ask_all(server.url, keys, sent, options.clients))
        seconds = time.perf_counter() - begun
        again = asyncio.run(ask_all(server.url, keys, sent[: options.alone], 1))
        verdicts = [verdict(answer, code, {*sent}) for answer, code in zip(answers, sent, strict=True)]
        suspects = [number for number, name in enumerate(verdicts) if name == "leaked"]
        alone = asyncio.run(ask_all(server.url, keys, sent, 1, suspects))
        for number in suspects:
            if alone[number] == answers[number]:
                verdicts[number] = "chance"
    found = Counter(
        (KINDS[number % len(KINDS)], MEMORIES[number // len(KINDS) % len(MEMORIES)], name)
        for number, name in enumerate(verdicts)
    )
    for kind in KINDS:
        for memory in MEMORIES:
            counts = {name: found[kind, memory, name] for name in ("own", "garbled", "none", "chance", "leaked")}
            print(f"{kind:14}{memory:8}{', '.join(f'{count} {name}' for name, count in counts.items())}")
    leaked = sum(count for (_, _, name), count in found.items() if name == "leaked")
    other = sum(ours != theirs for ours, theirs in zip(answers, again, strict=False))
    print(f"{len(sent)} requests in {seconds:.0f} s: {leaked} leaked; {other} of {len(again)} are others alone")
    if options.out:
        names = {f"{kind}, {memory}, {name}": count for (kind, memory, name), count in sorted(found.items())}
        figures = {"requests": len(sent), "clients": options.clients, "leaked": leaked, "other alone": other} | names
        write_json(options.out, figures | {"machine": processor(), "commit": commit()})
    return int(bool(leaked or other))


if __name__ == "__main__":
    run_script(main)
