"""Splits of contents."""

from __future__ import annotations

from collections import Counter

import pytest

from prosg.data.synthetic import split_of


def test_splits_hash_unordered_contents_and_divide_80_10_10() -> None:
    assert split_of("names", ["a", "b", "c"]) == split_of("names", ["c", "a", "b"])
    counts = Counter(split_of("code", [str(number)]) for number in range(5000))
    assert counts["train"] == pytest.approx(4000, abs=120)
    assert counts["validation"] == pytest.approx(500, abs=90)
