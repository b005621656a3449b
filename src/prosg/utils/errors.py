"""Errors, what they came from, and those of a disk that is full."""

from __future__ import annotations

import errno

__all__ = ["FULL", "causes"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of errors that say that there is no room for a file."""


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and those that it came from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
