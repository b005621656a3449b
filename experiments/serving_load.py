"""Load on a running server, over HTTP: what one request costs, and how many behave that come at given times."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from serving_simulation import Costs, Load

TIMEOUT = 120.0
PROBES = 12


@dataclass
class Measured:
    """Seconds of one request."""

    first: float
    whole: float


class Server:
    """A server of the packaged model, and prompts that are stored there."""

    def __init__(self, url: str, tokens: int) -> None:
        self.url, self.tokens = url, tokens
        self.prompts: list[str] = []
        self.prompt_bytes = 0

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        return httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT, limits=limits)

    async def store(self, number: int) -> None:
        """Stores prompts."""
        async with self.client() as client:
            for one in range(number):
                text = f"Remember the code {1000000 + one}. Tell a story, then say the code."
                reply = await client.post("/v1/prompts", json={"text": text, "memory": "none"})
                reply.raise_for_status()
                self.prompts.append(reply.json()["id"])
                self.prompt_bytes = reply.json()["bytes"]

    async def ask(self, client: httpx.AsyncClient, prompt: int) -> Measured:
        """Streams an answer, which has to be as long as it may be.

        Raises:
            ValueError: for one that ends before.
        """
        body = {"model": "demo", "prompt": "", "prompt_id": self.prompts[prompt], "max_tokens": self.tokens}
        begun, first = time.perf_counter(), 0.0
        async with client.stream("POST", "/v1/completions", json=body | {"temperature": 0, "stream": True}) as reply:
            reply.raise_for_status()
            async for line in reply.aiter_lines():
                first = first or (time.perf_counter() if line.startswith("data:") else 0.0)
                if '"finish_reason":"stop"' in line:
                    raise ValueError(f"an answer has fewer than {self.tokens} tokens; ask for shorter ones")
        return Measured(first - begun, time.perf_counter() - begun)

    async def used(self) -> tuple[int, int]:
        """Stored prompts that were found in memory, and that had to be fetched."""
        async with self.client() as client:
            text = (await client.get("/metrics")).text
        found = {"memory": 0.0, "storage": 0.0}
        for where, value in re.findall(r'^prosg_prompts_used_total\{found="(\w+)".*\} (\S+)$', text, re.MULTILINE):
            found[where] += float(value)
        return int(found["memory"]), int(found["storage"])

    async def run(self, load: Load) -> dict[str, float]:
        """Sends a load's requests at their times, whether those before have ended or not; before that the warm ones."""
        async with self.client() as client:
            for prompt in load.warm:
                await self.ask(client, prompt)
            before = await self.used()
            begun = time.perf_counter()

            async def one(at: float, prompt: int) -> Measured:
                await asyncio.sleep(begun + at - time.perf_counter())
                return await self.ask(client, prompt)

            found = await asyncio.gather(*map(one, load.at, load.prompts))
            seconds = time.perf_counter() - begun
        after = await self.used()
        hits, misses = (after[0] - before[0], after[1] - before[1])
        first, whole = ([getattr(one, name) for one in found] for name in ("first", "whole"))
        return {
            "hit_rate": hits / max(1, hits + misses),
            "first_p50": float(np.quantile(first, 0.5)),
            "first_p99": float(np.quantile(first, 0.99)),
            "whole_p50": float(np.quantile(whole, 0.5)),
            "whole_p99": float(np.quantile(whole, 0.99)),
            "requests_per_second": len(found) / seconds,
            "bytes_moved": float(misses * self.prompt_bytes),
        }

    async def costs(self, replicas: int, cores: int) -> Costs:
        """Measures a request alone, and several at once that have all replicas busy."""

        async def probe(client: httpx.AsyncClient, at_once: int) -> Measured:
            rounds = [
                await asyncio.gather(*(self.ask(client, one % len(self.prompts)) for one in range(at_once)))
                for _ in range(max(2, PROBES // at_once))
            ]
            measured = [one for answers in rounds[1:] for one in answers]
            first, whole = ([getattr(one, name) for one in measured] for name in ("first", "whole"))
            return Measured(float(np.median(first)), float(np.median(whole)))

        many = 4
        async with self.client() as client:
            alone, busy = await probe(client, 1), await probe(client, many * replicas)
        between = self.tokens - 1
        step = (alone.whole - alone.first) / between
        # Replicas that share cores take turns.
        shared = (busy.whole - busy.first) / between * min(cores, replicas) / replicas
        return Costs(
            rows=(1, many),
            seconds=(step, max(step, shared)),
            prompt_bytes=self.prompt_bytes,
            overhead=max(0.0, alone.first - step),
            latency=0.001,
            bandwidth=1e9,
        )


def zipf_of(server: Server, exponent: float, requests: int, rate: float, seed: int) -> Load:
    """A load on a server's prompts, as many requests before it as in it."""
    return Load.zipf(len(server.prompts), exponent, requests, rate, server.tokens, requests, seed)


def shares(real: dict[str, float], simulated: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    """How far the simulation is off, relative to what was real."""
    return {name: simulated[name] / real[name] - 1 if real[name] else 0.0 for name in names}
