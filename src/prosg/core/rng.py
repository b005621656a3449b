"""Random numbers as a function of what they are drawn for.

They do not depend on when or where they are drawn, so a resumed training, and one of several processes, draws the same.
"""

from __future__ import annotations

import numpy as np

__all__ = ["uniforms"]


def uniforms(seed: int | np.ndarray, step: int | np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """Draws uniform numbers in [0, 1), each a hash (splitmix64) of seed, step, row id and column.

    Args:
        seed: Any integer, of which the lowest 64 bits count; or (N,) uint64, one per row.
        step: Number of the training step, or of any other draw; or (N,) of them, one per row.
        ids: (N,) non-negative integers, one per row.
        count: Numbers per row.

    Returns:
        (N, count) float64, multiples of 2^-24. Finer numbers could be rounded up to 1.0 in fp32, and so index beyond
        the end of a table.
    """
    with np.errstate(over="ignore"):
        x = _column(seed & (2**64 - 1) if isinstance(seed, int) else seed)
        for part in (_column(step), _column(ids), np.arange(count, dtype=np.uint64)):
            x = x + np.uint64(0x9E3779B97F4A7C15) * (part + np.uint64(1))
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return np.asarray((x >> np.uint64(40)).astype(np.float64) / float(1 << 24))


def _column(values: int | np.ndarray) -> np.ndarray:
    """Whole numbers (N,), or one, as uint64 (N, 1), (1, 1)."""
    return np.asarray(values, np.uint64).reshape(-1, 1)
