"""Errors, what they came from, and those of a disk that is full."""

from __future__ import annotations

import errno
import os

from prosg.utils.spelling import meant_path

__all__ = ["FULL", "causes", "unreadable"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of errors that say that there is no room for a file."""


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and those that it came from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def unreadable(path: str | os.PathLike[str], error: OSError) -> str:
    """Returns what is wrong with a file that cannot be read, with the one that was probably meant."""
    near = meant_path(path) if isinstance(error, FileNotFoundError) else ""
    return f"{os.fspath(path)}: cannot be read: {error.strerror}{near}"
