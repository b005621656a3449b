"""Random numbers that are a function of what they are drawn for, never of when."""

from __future__ import annotations

import numpy as np

__all__ = ["uniforms"]


def uniforms(seed: int, step: int, ids: np.ndarray, count: int) -> np.ndarray:
    """(len(ids), count) numbers in [0, 1), a function of seed, step, id and column alone (splitmix64).

    They are multiples of 2^-24: one above the largest fp32 below 1 would become 1 there, and point beyond every table.
    """
    with np.errstate(over="ignore"):
        x: np.ndarray = np.full(1, seed & (2**64 - 1), np.uint64)
        for part in (np.full(1, step, np.uint64), ids.astype(np.uint64)[:, None], np.arange(count, dtype=np.uint64)):
            x = x + np.uint64(0x9E3779B97F4A7C15) * (part + np.uint64(1))
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return np.asarray((x >> np.uint64(40)).astype(np.float64) / float(1 << 24))
