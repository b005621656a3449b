"""Progress of long work: a bar on terminals, and the types of functions that are told how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

__all__ = ["OnProgress", "Progress", "no_progress", "part_of", "progress_bar", "say"]

OnProgress = Callable[[int], object]
"""Called with the number of items done since the last call."""


@runtime_checkable
class Progress(Protocol):
    """Called with the share done, 0 to 1, and what is being done."""

    def __call__(self, share: float, note: str = "") -> None: ...


def part_of(tell: Progress, number: int, total: int, name: str = "") -> Progress:
    """Returns what part `number` of `total` equal parts tells of itself; `tell` gets it as progress of the whole.

    `name`, if there is one, is put before the part's notes.
    """

    def tell_part(share: float, note: str = "") -> None:
        tell((number + share) / total, f"{name} {note}".strip())

    return tell_part


def no_progress(count: int) -> None:
    """Ignores progress."""


def progress_bar(description: str, total: int, unit: str) -> Any:
    """Returns a tqdm bar, which shows nothing unless stderr is a terminal."""
    return tqdm(total=total, desc=description, unit=unit, disable=not sys.stderr.isatty(), leave=False)


def say(text: str) -> None:
    """Prints a line on stderr, above any bar."""
    tqdm.write(text, file=sys.stderr)
