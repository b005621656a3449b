"""Numbers and lists as reports write them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["amount", "join"]


def amount(value: float) -> str:
    """A share as .98, 0 or 1.0; rounding makes nothing perfect, nor zero (.998, .002)."""
    if value in (0, 1):
        return "1.0" if value else "0"
    digits = 2 if 0.005 <= value < 0.995 else 3
    return f"{min(max(value, 0.001), 0.999):.{digits}f}".removeprefix("0")


def join(words: Iterable[str]) -> str:
    """a, b and c."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
