"""Length and repetition of texts."""

from __future__ import annotations

import pytest

from prosg.evaluation.text_statistics import compute_text_statistics


def test_repetition_and_distinct_words() -> None:
    # a b c d a b c d: 5 four-grams, 1 of them a repetition; 7 bigrams, 4 different ones.
    repeated = compute_text_statistics(["A b c d, a b c d."])
    assert (repeated.words, repeated.rep_4, repeated.distinct_2) == (
        8,
        pytest.approx(1 / 5),
        pytest.approx(4 / 7),
    )
    assert compute_text_statistics(["one"]) == (1, None, None)
    both = compute_text_statistics(["a b c d a b c d", "one two three four"])
    assert (both.words, both.rep_4) == (6, pytest.approx(0.1))
    assert both.distinct_2 == pytest.approx((4 / 7 + 1) / 2)
    assert compute_text_statistics(["don't stop", ""]).words == 1
    with pytest.raises(ValueError, match="no texts"):
        compute_text_statistics([])
