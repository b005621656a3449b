"""Calls into the tokenizers library, whose errors are of no type of their own and whose panics pass every `except`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prosg.utils.outside import plain_reason

__all__ = ["PanicError", "guarded", "silenced"]


class PanicError(ValueError):
    """What was a panic in the library."""


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turns every error of the library into ValueError "WHAT (reason)", and a panic into PanicError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what} ({plain_reason(error)})") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Rust's, which Python does not take for an Exception
            raise
        raise PanicError(f"{what} ({plain_reason(error)})") from None


@contextmanager
def silenced() -> Iterator[None]:
    """Sends what is written to the process' stderr nowhere: a panic writes there itself, with all its calls."""
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
