"""Krippendorff's alpha for ordinal data (Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011).

    alpha = 1 - D_o / D_e = 1 - (n - 1) sum_{c<k} o_ck d2_ck / sum_{c<k} n_c n_k d2_ck
    d2_ck = (sum_{g=c..k} n_g - (n_c + n_k) / 2)^2

o_ck: coincidences of the values c and k within a unit, where each of the m (m - 1) ordered pairs of a unit with m
values counts 1 / (m - 1); n_c = sum_k o_ck; n = sum_c n_c. Units with a single value are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["ordinal_alpha"]


def ordinal_alpha(units: Sequence[Sequence[int]]) -> float | None:
    """Krippendorff's alpha for ordinal data: 1 for perfect agreement, 0 for agreement by chance.

    Args:
        units: For each rated thing its values, one per rater who rated it, in any order.

    Returns:
        alpha; None where it is undefined, since no unit has two values or only one value occurs.
    """
    paired = [values for values in units if len(values) > 1]
    levels = sorted({value for values in paired for value in values})
    if len(levels) < 2:
        return None
    level_index = {value: i for i, value in enumerate(levels)}
    coincidences = np.zeros((len(levels), len(levels)))
    for values in paired:
        counts = np.bincount([level_index[value] for value in values], minlength=len(levels))
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    totals = coincidences.sum(0)
    # The sum from c to k with both ends counted by half is the difference of the two levels' mean ranks.
    mean_ranks = np.cumsum(totals) - totals / 2
    distances = (mean_ranks[:, None] - mean_ranks[None, :]) ** 2
    expected = (np.outer(totals, totals) * distances).sum()
    return float(1 - (totals.sum() - 1) * (coincidences * distances).sum() / expected)
