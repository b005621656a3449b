"""The reasons for which a build leaves something out, counted by their kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from prosg.utils.fields import check_record
from prosg.utils.store import read_log

__all__ = ["kind_of", "reasons_text", "rejection_reasons"]


def kind_of(reason: str) -> str:
    """Returns a reason without its details, so that equal ones can be counted."""
    return "step not followed" if reason.endswith("not followed") else reason.partition(":")[0].partition(" (")[0]


def reasons_text(reasons: Iterable[str]) -> str:
    """Returns the counts of reasons, to be printed behind a stage's result."""
    counts = Counter(kind_of(reason) for reason in reasons)
    return "".join(f"; {number} {reason}" for reason, number in counts.most_common())


def rejection_reasons(path: Path) -> list[str]:
    """Returns the first reason of each pair in a build's rejected.jsonl. Raises ValueError for a damaged line."""
    reasons: list[str] = []
    for number, pair in enumerate(read_log(path), 1):
        check_record(pair, {"reasons": list}, f"{path}:{number}")
        reasons += map(str, pair["reasons"][:1])
    return reasons
