"""Intervals: bootstrap over prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["bootstrap_interval", "paired_difference"]

RESAMPLES = 2000


def bootstrap_interval(
    values: Sequence[float], clusters: Sequence[str] | None = None, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of `values`, resampling whole clusters (prompts; each value its own by default).

    Raises ValueError for no values.
    """
    if not len(values):
        raise ValueError("an interval over no values is undefined")
    names = list(clusters) if clusters is not None else list(range(len(values)))
    _, index = np.unique(np.array(names), return_inverse=True)
    sums = np.bincount(index, weights=np.asarray(values, dtype=float))
    sizes = np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ours - theirs over the same prompts, with its interval."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} values; a paired difference needs the same prompts")
    difference = (np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)).tolist()
    low, high = bootstrap_interval(difference, None, level, seed)
    return float(np.mean(difference)), low, high
