"""What a word that is not known was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["check_known", "meant"]


def meant(word: str, known: Iterable[str]) -> str:
    """Returns ", did you mean NAME?" where a word is near to a known name, else ""; errors put it behind the word."""
    near = difflib.get_close_matches(word, [*known], n=1, cutoff=0.65)
    return f", did you mean {near[0]}?" if near else ""


def check_known(option: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    """Raises ValueError for names that are not allowed: the option, the names, the one that was meant, and all."""
    allowed = [*allowed]
    if unknown := [name for name in names if name not in allowed]:
        near = meant(unknown[0], allowed)
        raise ValueError(f"{option} has {', '.join(unknown)}{near}; allowed: {', '.join(allowed)}")
