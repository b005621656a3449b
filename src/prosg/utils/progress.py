"""Progress of long work: a bar on terminals, lines elsewhere, and types of functions that are told how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from prosg.utils.tables import duration_text

__all__ = ["OnProgress", "Progress", "ProgressDisplay", "no_progress", "part_of", "progress_bar", "say"]

LINE_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""

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


def progress_bar(description: str, total: int, unit: str, shown: bool = True) -> Any:
    """Returns a tqdm bar, which shows nothing unless it is to be shown and stderr is a terminal."""
    return tqdm(total=total, desc=description, unit=unit, disable=not (shown and sys.stderr.isatty()), leave=False)


class ProgressDisplay:
    """Shows on stderr how far work is: a bar on a terminal, else a line at once and then every `LINE_SECONDS`."""

    def __init__(self, description: str, bar: bool = True) -> None:
        """`description` stands before the notes; without `bar` a terminal gets lines, too."""
        self.description, self.begun = description, time.monotonic()
        self.shown: float | None = None  # when the last line was
        self.bar = progress_bar(description, 100, "%", bar)

    def __call__(self, share: float, note: str = "") -> None:
        """Shows the share done, 0 to 1, and what is being done."""
        if not self.bar.disable:
            self.bar.set_description(f"{self.description} {note}".rstrip(), refresh=False)
            self.bar.update(round(100 * share) - self.bar.n)
            self.bar.refresh()
            return
        now = time.monotonic()
        if self.shown is not None and now - self.shown < LINE_SECONDS:
            return
        left = ""
        if share and self.shown is not None:
            left = f", about {duration_text(float(round((now - self.begun) * (1 - share) / share)))} left"
        print(f"{self.description} {note}: {share:.0%}{left}", file=sys.stderr, flush=True)
        self.shown = now

    def close(self) -> None:
        """Takes the bar away."""
        self.bar.close()


def say(text: str) -> None:
    """Prints a line on stderr, above any bar."""
    tqdm.write(text, file=sys.stderr)
