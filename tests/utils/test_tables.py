"""Quantities as text."""

from __future__ import annotations

import pytest

from prosg.utils.tables import duration_text, perplexity_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.000"),
        (1.04312, "1.043"),
        (12.3456, "12.35"),
        (523.04, "523.0"),
        (12345.6, "12,346"),
        (1234567.0, "1.2e+06"),
        (float("inf"), "inf"),
    ],
)
def test_perplexities_have_four_digits(value: float, text: str) -> None:
    assert perplexity_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (119.0, "119 s"), (431.0, "7 min"), (7500.0, "2 h 5 min")]
)
def test_durations_have_a_unit_that_fits(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
