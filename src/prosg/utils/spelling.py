"""What a word that is not known, or a file that is not there, was probably meant to be."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["check_known", "meant", "meant_path"]


def meant(word: str, known: Iterable[str]) -> str:
    """Returns ", did you mean NAME?" where a word is near to a known name, else ""; errors put it behind the word."""
    near = difflib.get_close_matches(word, [*known], n=1, cutoff=0.65)
    return f", did you mean {near[0]}?" if near else ""


def meant_path(path: str | os.PathLike[str]) -> str:
    """Returns ", did you mean PATH?" where a folder holds what is named nearly as a missing file is, else "".

    Where it is one of the folders on the way that is missing, the rest has to be there in the one that was meant.
    """
    missing = Path(path)
    if missing.exists():
        return ""
    while not missing.parent.is_dir():
        missing = missing.parent
    try:
        names = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        return ""
    rest = Path(path).relative_to(missing)
    near = difflib.get_close_matches(missing.name, names, n=3, cutoff=0.65)
    found = next((there for name in near if (there := missing.with_name(name) / rest).exists()), None)
    return "" if found is None else f", did you mean {found}?"


def check_known(option: str, names: Iterable[str], allowed: Iterable[str]) -> None:
    """Raises ValueError for names that are not allowed: the option, the names, the one that was meant, and all."""
    allowed = [*allowed]
    if unknown := [name for name in names if name not in allowed]:
        near = meant(unknown[0], allowed)
        raise ValueError(f"{option} has {', '.join(unknown)}{near}; allowed: {', '.join(allowed)}")
