"""Krippendorff's alpha for ordinal data (Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011).

    alpha = 1 - D_o / D_e = 1 - (n - 1) sum_{c<k} o_ck d2_ck / sum_{c<k} n_c n_k d2_ck
    d2_ck = (sum_{g=c..k} n_g - (n_c + n_k) / 2)^2

o_ck: how often values c and k meet in a unit, each of its m (m - 1) ordered pairs counted 1 / (m - 1) times, m the
values that the unit has; n_c = sum_k o_ck; n = sum_c n_c. Units with one value say nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["ordinal_alpha"]


def ordinal_alpha(units: Sequence[Sequence[int]]) -> float | None:
    """Agreement on the units' values: 1 perfect, 0 as by chance; None where it is undefined (no pair, or one value).

    units: the values that each unit was given, one per rater who rated it, in any order.
    """
    paired = [values for values in units if len(values) > 1]
    levels = sorted({value for values in paired for value in values})
    if len(levels) < 2:
        return None
    place = {value: i for i, value in enumerate(levels)}
    met = np.zeros((len(levels), len(levels)))
    for values in paired:
        counts = np.bincount([place[value] for value in values], minlength=len(levels))
        met += (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    sums = met.sum(0)
    # Values from c to k, the ends by half: the difference of the ranks' middles.
    middles = np.cumsum(sums) - sums / 2
    squared = (middles[:, None] - middles[None, :]) ** 2
    expected = (np.outer(sums, sums) * squared).sum()
    return float(1 - (sums.sum() - 1) * (met * squared).sum() / expected)
