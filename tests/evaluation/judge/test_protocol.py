"""What follows from a judge's replies."""

from __future__ import annotations

from prosg.evaluation.judge.protocol import preference


def test_preferences() -> None:
    assert preference("first", "second") == "first"
    assert preference("second", "first") == "second"
    assert preference("first", "first") == preference("tie", "first") == preference("tie", "tie") == "tie"
    assert preference("unparsed", "first") == preference("first", "unparsed") == "unparsed"
