"""Bootstrap intervals and paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from prosg.evaluation.report.cells import TOO_FEW, verdict
from prosg.evaluation.statistics import bootstrap_interval, compare, paired_difference


def test_constant_values_have_an_interval_of_no_width() -> None:
    assert bootstrap_interval([1.0] * 10) == (1.0, 1.0)
    assert paired_difference([1.0] * 10, [0.25] * 10) == (0.75, 0.75, 0.75)


def test_interval_approaches_the_normal_approximation() -> None:
    values = [1.0] * 300 + [0.0] * 100
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5  # 0.0424
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(0.75 - half, abs=0.006)
    assert high == pytest.approx(0.75 + half, abs=0.006)


def test_interval_is_the_same_for_the_same_seed_and_narrower_for_a_lower_level() -> None:
    values = np.random.default_rng(0).random(50).tolist()
    wide, again = bootstrap_interval(values), bootstrap_interval(values)
    narrow = bootstrap_interval(values, level=0.5)
    assert wide == again
    assert wide[0] < narrow[0] < np.mean(values) < narrow[1] < wide[1]


def test_clusters_are_resampled_whole() -> None:
    # Four copies of a prompt's value are no more evidence than one: the interval is as wide as without the copies.
    values = [1.0, 0.0] * 10
    copies = [value for value in values for _ in range(4)]
    names = [f"prompt {i}" for i in range(20) for _ in range(4)]
    assert bootstrap_interval(copies, names) == bootstrap_interval(values, [f"prompt {i}" for i in range(20)])
    alone = bootstrap_interval(copies)
    clustered = bootstrap_interval(copies, names)
    assert clustered[1] - clustered[0] > 1.5 * (alone[1] - alone[0])


def test_clusters_of_different_size_weigh_by_their_values() -> None:
    # Draws of two clusters (three ones; one zero): means 1, 0 or 3/4, so the outer quantiles are 0 and 1.
    assert bootstrap_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]) == (0.0, 1.0)


def test_pairing_removes_the_prompts_difficulty() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(200)
    ours, theirs = (hard + 0.05).tolist(), hard.tolist()
    mean, low, high = paired_difference(ours, theirs)
    assert (mean, low, high) == pytest.approx((0.05, 0.05, 0.05))
    assert paired_difference(theirs, ours)[0] == pytest.approx(-0.05)


def test_undefined_statistics_are_errors() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="3 and 2 values"):
        paired_difference([1.0, 1.0, 1.0], [0.0, 0.0])


def test_nothing_is_claimed_of_so_few_rows_that_one_sign_is_no_surprise() -> None:
    def claim(rows: int, ours: float = 1.0) -> str:
        return verdict([compare({str(i): ours for i in range(rows)}, {str(i): 0.5 for i in range(rows)})])

    assert [claim(1), claim(5), claim(6), claim(6, 0.0)] == [TOO_FEW, TOO_FEW, "better", "worse"]
    assert verdict([None]) == "not measured"
