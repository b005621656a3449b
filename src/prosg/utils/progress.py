"""Progress of long loops: a bar on terminals, and the type of functions that are told how far a loop is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

__all__ = ["OnProgress", "no_progress", "progress_bar"]

OnProgress = Callable[[int], object]
"""Called with the number of items done since the last call."""


def no_progress(count: int) -> None:
    """Ignores progress."""


def progress_bar(description: str, total: int, unit: str) -> Any:
    """Returns a tqdm bar, which shows nothing unless stderr is a terminal."""
    return tqdm(total=total, desc=description, unit=unit, disable=not sys.stderr.isatty(), leave=False)
