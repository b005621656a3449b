"""A discrete-event simulation of replicas that serve stored prompts: routers, caches, storage and batches of answers.

    request -> router -> replica: in its cache? else fetched from the storage -> joins the batch -> first token ... end

A replica writes one token of each of its answers per step, and a step of n answers takes `Costs.step(n)` seconds. All
times are in seconds. The same seed gives the same requests to every router and every size of cache.
"""

from __future__ import annotations

import bisect
import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import simpy

SHORTEST_STEP = 1e-6
"""Seconds: time has to pass."""
BOUND = 2.0
"""Load that consistent hashing lets a replica have, against the mean (Mirrokni, Thorup and Zadimoghaddam, 2016)."""
POINTS = 128
"""Places of each replica on the ring of consistent hashing."""
MAX_ROWS = 32
"""Answers that a replica writes at once; Ray Serve gives it no more."""
HELD = 1024
"""Prompts of which Ray Serve's router knows that a replica has them (`prosg.serving.ray.application`)."""


@dataclass(frozen=True)
class Costs:
    """What was measured of one replica.

    Attributes:
        rows: Numbers of answers at once, ascending.
        seconds: Of a step with so many.
        prompt_bytes: Of an encoded prompt.
        overhead: Seconds that a request takes beside its steps and its prompt: HTTP, routing, tokenising.
        load: Seconds in which a prompt that has arrived is checked and made ready.
        latency: Seconds until the storage begins to send.
        bandwidth: Bytes a second that one replica receives.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    prompt_bytes: int
    overhead: float = 0.0
    load: float = 0.0
    latency: float = 0.02
    bandwidth: float = 100e6

    def __post_init__(self) -> None:
        """Raises ValueError for costs that nothing can have: the simulation would not end, or divide by zero."""
        ascending = all(a < b for a, b in pairwise((0, *self.rows)))
        if not self.rows or len(self.rows) != len(self.seconds) or not ascending:
            raise ValueError(f"rows are {self.rows}, must be whole numbers from 1 on, ascending, each with its seconds")
        for name in ("seconds", "overhead", "load", "latency"):
            if not np.all((np.asarray(getattr(self, name)) >= 0) & np.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}, must be 0 or more")
        if self.prompt_bytes < 1 or not self.bandwidth > 0:
            raise ValueError(
                f"prompt_bytes is {self.prompt_bytes} and bandwidth {self.bandwidth}; both must be above 0"
            )

    def step(self, rows: int) -> float:
        """Seconds of a step, between and beyond what was measured by straight lines."""
        if len(self.rows) == 1:
            return max(SHORTEST_STEP, self.seconds[0])
        right = min(max(1, bisect.bisect_left(self.rows, rows)), len(self.rows) - 1)
        (x0, x1), (y0, y1) = self.rows[right - 1 : right + 1], self.seconds[right - 1 : right + 1]
        return max(SHORTEST_STEP, y0 + (y1 - y0) * (rows - x0) / (x1 - x0))

    @property
    def fetch(self) -> float:
        """Seconds of a prompt from the storage, where nothing else is fetched."""
        return self.latency + self.prompt_bytes / self.bandwidth + self.load


@dataclass(frozen=True)
class Load:
    """What is asked for.

    Attributes:
        at: When each request comes, ascending.
        prompts: The stored prompt of each.
        tokens: Length of every answer.
        warm: Prompts that were asked for before, in turn: what the caches begin with.
    """

    at: Sequence[float]
    prompts: Sequence[int]
    tokens: int
    warm: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for a load without requests or tokens, of which no figures could be made."""
        if not len(self.at) or len(self.at) != len(self.prompts):
            raise ValueError(f"{len(self.at)} times and {len(self.prompts)} prompts; one of each for every request")
        if self.at[0] < 0 or any(b < a for a, b in pairwise(self.at)):
            raise ValueError("the times of requests must be 0 or more, and ascending")
        if self.tokens < 1:
            raise ValueError(f"tokens is {self.tokens}, must be at least 1")

    @classmethod
    def zipf(cls, prompts: int, exponent: float, requests: int, rate: float, tokens: int, warm: int, seed: int) -> Load:
        """Prompts by Zipf's law, asked for at random times, `rate` a second.

        Raises:
            ValueError: for numbers that are no load.
        """
        if min(prompts, requests) < 1 or warm < 0 or not rate > 0 or not 0 <= exponent < np.inf:
            raise ValueError(
                f"{prompts} prompts, {requests} requests, {rate} a second, {warm} before, exponent {exponent}; the "
                "first three must be above 0, the others 0 or more"
            )
        generator = np.random.default_rng(seed)
        shares = np.arange(1, prompts + 1, dtype=np.float64) ** -exponent
        bounds = np.cumsum(shares) / shares.sum()
        drawn = np.searchsorted(bounds, generator.random(warm + requests)).clip(max=prompts - 1).tolist()
        at = np.cumsum(generator.exponential(1 / rate, requests)).tolist()
        return cls(at, drawn[warm:], tokens, drawn[:warm])


@dataclass
class Answer:
    """A request on its way."""

    prompt: int
    at: float
    left: int
    first: float = 0.0
    end: float = 0.0


class Cache:
    """The prompts that a replica has, the one used last at the end."""

    def __init__(self, size: int) -> None:
        self.size, self.kept = size, OrderedDict[int, None]()

    def use(self, prompt: int) -> bool:
        """Whether it is there; afterwards it is."""
        hit = prompt in self.kept
        self.kept[prompt] = None
        self.kept.move_to_end(prompt)
        if len(self.kept) > self.size:
            self.kept.popitem(last=False)
        return hit


class Router(Protocol):
    """Chooses a replica for a prompt, given what each has to do."""

    def __call__(self, prompt: int, loads: Sequence[int]) -> int: ...


def lighter(replicas: Sequence[int], loads: Sequence[int], generator: random.Random) -> int:
    """The one with less to do of two drawn at random."""
    drawn = replicas if len(replicas) <= 2 else generator.sample(replicas, 2)
    return min(generator.sample(drawn, len(drawn)), key=loads.__getitem__)


class AtRandom:
    """The lighter of two replicas, whatever the prompt: what most load balancers do."""

    def __init__(self, replicas: int) -> None:
        self._all, self._generator = range(replicas), random.Random(0)

    def __call__(self, prompt: int, loads: Sequence[int]) -> int:
        return lighter(self._all, loads, self._generator)


class Consistent:
    """Consistent hashing: a prompt's own replica, or, where loads are bounded, the next on the ring that has room."""

    def __init__(self, replicas: int, bound: float | None) -> None:
        points = sorted((_hash(f"{one}/{point}"), one) for one in range(replicas) for point in range(POINTS))
        self._places, self._owners = [place for place, _ in points], [owner for _, owner in points]
        self._bound = bound

    def __call__(self, prompt: int, loads: Sequence[int]) -> int:
        start = bisect.bisect(self._places, _hash(str(prompt)))
        owner = self._owners[start % len(self._owners)]
        if self._bound is None:
            return owner
        most = self._bound * (sum(loads) + 1) / len(loads)
        around = (self._owners[(start + step) % len(self._owners)] for step in range(len(self._owners)))
        return next((one for one in around if loads[one] + 1 <= max(1.0, most)), owner)


class Multiplexed:
    """Ray Serve's: of replicas with room the lighter of two that have the prompt, else of those with fewest."""

    def __init__(self, replicas: int, held: int = HELD, most: int = MAX_ROWS) -> None:
        self._held = [Cache(held) for _ in range(replicas)]
        self._most = most
        self._where: dict[int, set[int]] = {}
        self._generator = random.Random(0)

    def __call__(self, prompt: int, loads: Sequence[int]) -> int:
        having = [one for one in sorted(self._where.get(prompt, ())) if loads[one] < self._most]
        if not having:
            free = [one for one, load in enumerate(loads) if load < self._most] or range(len(loads))
            fewest = min(len(self._held[one].kept) for one in free)
            having = [one for one in free if len(self._held[one].kept) == fewest]
        chosen = lighter(having, loads, self._generator)
        cache = self._held[chosen]
        oldest = next(iter(cache.kept)) if len(cache.kept) == cache.size else None
        if not cache.use(prompt) and oldest is not None:
            self._where[oldest].discard(chosen)
        self._where.setdefault(prompt, set()).add(chosen)
        return chosen


ROUTERS: dict[str, Callable[[int], Router]] = {
    "at random": AtRandom,
    "by prompt id": lambda replicas: Consistent(replicas, None),
    "by prompt id, bounded": lambda replicas: Consistent(replicas, BOUND),
    "Ray Serve": Multiplexed,
}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@dataclass
class Replica:
    """One replica: its cache, the answers that wait and those that are written."""

    env: simpy.Environment
    costs: Costs
    cache: Cache
    max_rows: int
    cores: simpy.Resource | None
    load: int = 0
    _waiting: list[Answer] = field(default_factory=list)
    _rows: list[Answer] = field(default_factory=list)
    _wake: simpy.Event | None = None

    def take(self, answer: Answer, fetches: bool) -> Iterator[Any]:
        """Takes a request: its prompt is fetched, if need be, and then it waits for its turn."""
        if fetches:
            yield self.env.timeout(self.costs.fetch)
        yield from self._busy(self.costs.overhead)
        self._waiting.append(answer)
        if self._wake is not None and not self._wake.triggered:
            self._wake.succeed()

    def run(self) -> Iterator[Any]:
        """Writes a token of every answer, step by step, for ever."""
        while True:
            while self._waiting and len(self._rows) < self.max_rows:
                self._rows.append(self._waiting.pop(0))
            if not self._rows:
                self._wake = self.env.event()
                yield self._wake
                continue
            yield from self._busy(self.costs.step(len(self._rows)))
            for answer in self._rows:
                answer.left -= 1
                answer.first = answer.first or self.env.now
                if not answer.left:
                    answer.end = self.env.now
                    self.load -= 1
            self._rows = [answer for answer in self._rows if answer.left]

    def _busy(self, seconds: float) -> Iterator[Any]:
        """Takes a core for some seconds, where cores are shared."""
        if self.cores is None:
            yield self.env.timeout(seconds)
            return
        with self.cores.request() as core:
            yield core
            yield self.env.timeout(seconds)


def simulate(
    load: Load,
    costs: Costs,
    router: Router,
    *,
    replicas: int,
    cache_bytes: float,
    max_rows: int = MAX_ROWS,
    cores: int | None = None,
) -> dict[str, float]:
    """Simulates all requests of a load.

    Args:
        load: What is asked for.
        costs: What a replica takes.
        router: Chooses replicas.
        replicas: How many there are.
        cache_bytes: Of each, for prompts.
        max_rows: Answers that one writes at once.
        cores: Processor cores that all of them share; None where each has its own.

    Returns:
        The share of hits, p50 and p99 of the seconds to the first token and to the end, requests a second, bytes moved.
        A prompt counts as found from when it is first asked for, also while it is still on its way.

    Raises:
        ValueError: for replicas, rows or cores of which there are none, and a cache of less than nothing.
    """
    if min(replicas, max_rows, 1 if cores is None else cores) < 1 or not cache_bytes >= 0:
        raise ValueError(
            f"{replicas} replicas, {max_rows} rows, {cores} cores, a cache of {cache_bytes} bytes; there must be at "
            "least one of each, and 0 bytes or more"
        )
    env = simpy.Environment()
    shared = None if cores is None else simpy.Resource(env, cores)
    size = max(1, int(cache_bytes / costs.prompt_bytes))
    all_replicas = [Replica(env, costs, Cache(size), max_rows, shared) for _ in range(replicas)]
    idle = [0] * replicas
    for prompt in load.warm:
        all_replicas[router(prompt, idle)].cache.use(prompt)
    for replica in all_replicas:
        env.process(replica.run())
    answers, hits = [], 0

    def arrive() -> Iterator[Any]:
        nonlocal hits
        for at, prompt in zip(load.at, load.prompts, strict=True):
            yield env.timeout(at - env.now)
            replica = all_replicas[router(prompt, [one.load for one in all_replicas])]
            hit = replica.cache.use(prompt)
            hits += hit
            replica.load += 1
            answers.append(Answer(prompt, env.now, load.tokens))
            env.process(replica.take(answers[-1], not hit))

    yield_all = env.process(arrive())
    env.run(yield_all)
    while any(replica.load for replica in all_replicas):
        env.step()
    first = np.array([answer.first - answer.at for answer in answers])
    whole = np.array([answer.end - answer.at for answer in answers])
    return {
        "hit_rate": hits / len(answers),
        "first_p50": float(np.quantile(first, 0.5)),
        "first_p99": float(np.quantile(first, 0.99)),
        "whole_p50": float(np.quantile(whole, 0.5)),
        "whole_p99": float(np.quantile(whole, 0.99)),
        "requests_per_second": len(answers) / max(answer.end for answer in answers),
        "bytes_moved": float((len(answers) - hits) * costs.prompt_bytes),
    }
