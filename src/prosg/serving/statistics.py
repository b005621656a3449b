"""What an engine has done so far, in numbers."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field, replace
from itertools import accumulate

from prosg.serving.request import Reason

__all__ = ["EngineStatistics", "Histogram"]

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass
class Histogram:
    """How often values were of which size.

    Attributes:
        bounds: Upper bounds of the buckets, ascending; one more bucket holds what is beyond.
        counts: Values in each bucket.
        total: Sum of all values.
    """

    bounds: tuple[float, ...] = SECONDS
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """Values up to each bound, then all of them: Prometheus' buckets."""
        return [*accumulate(self.counts)]


@dataclass
class EngineStatistics:
    """Counters since the engine was made, and what it holds now.

    Attributes:
        submitted: Requests that were taken.
        refused: Requests that found the queue full.
        finished: Requests that have ended, by reason.
        encoded: Prompts that were encoded to be stored.
        read_tokens: Tokens of prompts that were read.
        cached_tokens: Tokens of prompts that were found in the cache instead.
        written_tokens: Tokens of answers, end tokens left out.
        steps: Steps of decoding, whatever the rows in them.
        chunks: Calls that read parts of prompts.
        row_steps: Rows in all steps of decoding together.
        cache_hits: Prompts whose end, or the end of a part of them, was found in the cache.
        cache_misses: Prompts of which nothing was.
        cache_bytes: Bytes in memory.
        cache_entries: Places in memory.
        disk_bytes: Bytes on disk.
        disk_entries: Places on disk.
        rows: Requests that are being answered.
        reading: Requests whose prompts are being read.
        waiting: Requests that wait.
        first_token: Seconds from a request's arrival to its first token.
    """

    submitted: int = 0
    refused: int = 0
    finished: dict[Reason, int] = field(default_factory=dict)
    encoded: int = 0
    read_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0
    steps: int = 0
    chunks: int = 0
    row_steps: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_bytes: int = 0
    cache_entries: int = 0
    disk_bytes: int = 0
    disk_entries: int = 0
    rows: int = 0
    reading: int = 0
    waiting: int = 0
    first_token: Histogram = field(default_factory=Histogram)

    def copy(self) -> EngineStatistics:
        """The numbers as they are now."""
        seconds = replace(self.first_token, counts=[*self.first_token.counts])
        return replace(self, finished=dict(self.finished), first_token=seconds)
