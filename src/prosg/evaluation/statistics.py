"""Means over rows, differences paired by row, and confidence intervals by the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["LEAST_CLAIMED", "Mean", "bootstrap_interval", "compare", "mean_of", "paired_difference"]

RESAMPLES = 2000
LEAST_CLAIMED = 6
"""Paired rows from which a difference is claimed: of fewer, even differences that all have one sign are no surprise (a
two-sided sign test of five has p = .06), while the bootstrap's interval excludes zero."""


def bootstrap_interval(
    values: Sequence[float], clusters: Sequence[str] | None = None, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval of a mean by the percentile cluster bootstrap.

    Draws as many clusters as there are, with replacement, 2000 times; each time takes the mean over all values of the
    drawn clusters, so that larger clusters weigh more; and returns the outer quantiles of these means. Values of one
    prompt (several stages, seeds or raters) are not independent: given the prompt as their cluster, they count as one
    observation of it, and the interval is about as wide as with one value per prompt.

    Args:
        values: Observations.
        clusters: The cluster of each value, such as its prompt's id; by default each value is a cluster of its own.
        level: Coverage. The interval runs from the quantile (1 - level) / 2 to (1 + level) / 2.
        seed: Seed of the resampling; the same arguments give the same interval.

    Returns:
        (low, high), in the unit of the values. Both are the mean itself where there is one cluster only.

    Raises:
        ValueError: For no values.
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
    """Mean difference of two systems on the same prompts, with its bootstrap interval.

    Resampling the differences of single prompts, instead of both means apart, leaves out how hard the prompts are,
    which both systems share.

    Args:
        ours, theirs: One value per prompt, both in the same order of prompts.
        level: Coverage of the interval, as in `bootstrap_interval`.
        seed: Seed of the resampling.

    Returns:
        (mean of ours - theirs, low, high). The difference is significant at 1 - level where the interval excludes 0.

    Raises:
        ValueError: For sequences of different length, and for empty ones.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} values; a paired difference needs the same prompts")
    difference = (np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)).tolist()
    low, high = bootstrap_interval(difference, None, level, seed)
    return float(np.mean(difference)), low, high


class Mean(NamedTuple):
    """A mean over rows with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_of(values: Mapping[str, float]) -> Mean | None:
    """The mean of values by row id; None of none."""
    if not values:
        return None
    numbers = list(values.values())
    return Mean(sum(numbers) / len(numbers), *bootstrap_interval(numbers, list(values)), len(numbers))


def compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Mean | None:
    """The mean of ours - theirs over the rows that both have; None where they share none."""
    both = [name for name in ours if name in theirs]
    if not both:
        return None
    return Mean(*paired_difference([ours[name] for name in both], [theirs[name] for name in both]), len(both))
