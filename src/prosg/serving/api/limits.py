"""What a key may use: requests and tokens per minute, and answers at once.

All of it is asked for in the server's one event loop, so that nothing needs a lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from prosg.serving.api.errors import ApiError, retry_after
from prosg.serving.api.options import KeyLimits

__all__ = ["Admission", "Limiter"]

MINUTE = 60.0


@dataclass
class _Bucket:
    """What is left of an allowance that is refilled evenly, and is full after a minute. It may be overdrawn."""

    size: float
    left: float
    at: float

    def wait(self, now: float, need: float) -> float:
        """Seconds until `need` is there; 0 if it is."""
        self.left = min(self.size, self.left + (now - self.at) * self.size / MINUTE)
        self.at = now
        return max(0.0, (need - self.left) * MINUTE / self.size)


@dataclass
class _Use:
    """What a key uses at present."""

    rows: int = 0
    requests: _Bucket | None = None
    tokens: _Bucket | None = None


class Admission:
    """A request that may run, until `end`."""

    def __init__(self, use: _Use, rows: int) -> None:
        self._use, self._rows = use, rows

    def end(self, tokens: int) -> None:
        """Gives the rows back, once, and takes the tokens that were read and written from the key's allowance."""
        self._use.rows -= self._rows
        self._rows = 0
        if self._use.tokens is not None:
            self._use.tokens.left -= tokens


class Limiter:
    """Admits requests, by key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells the seconds."""
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def admit(self, owner: str, limits: KeyLimits, rows: int) -> Admission:
        """Admits a request with so many answers.

        Raises:
            ApiError: 429 that says when to ask again, for a key that uses what it may; 400 for more answers than it may
                have at once.
        """
        use, now = self._uses.setdefault(owner, _Use()), self._clock()
        use.requests = _resized(use.requests, limits.requests_per_minute, now)
        use.tokens = _resized(use.tokens, limits.tokens_per_minute, now)
        if limits.rows and rows > limits.rows:
            raise ApiError(400, f"{rows} answers are asked for at once; this key may have {limits.rows}", param="n")
        if limits.rows and use.rows + rows > limits.rows:
            raise _refused(f"this key may have {limits.rows} answers at once, and {use.rows} are being written", 1.0)
        # Of tokens nobody knows how many a request will take: it may begin if any are left, and pays in the end.
        if use.tokens is not None and (seconds := use.tokens.wait(now, 1.0)):
            raise _refused(f"this key may use {limits.tokens_per_minute} tokens per minute", seconds)
        if use.requests is not None and (seconds := use.requests.wait(now, 1.0)):
            raise _refused(f"this key may send {limits.requests_per_minute} requests per minute", seconds)
        if use.requests is not None:
            use.requests.left -= 1
        use.rows += rows
        return Admission(use, rows)


def _resized(bucket: _Bucket | None, size: int, now: float) -> _Bucket | None:
    """A bucket of a size, which may have changed; None for no limit."""
    if not size:
        return None
    if bucket is None or bucket.size != size:
        left = float(size) if bucket is None else min(bucket.left, size)
        return _Bucket(float(size), left, now)
    return bucket


def _refused(message: str, seconds: float) -> ApiError:
    return ApiError(429, message, code="rate_limit_exceeded", headers=retry_after(seconds))
