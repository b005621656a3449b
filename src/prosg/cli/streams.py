"""Standard input, output and errors as commands need them: open, able to show any text, with a name in their errors."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prosg.utils.errors import FULL

__all__ = ["OUTPUT", "close_output", "flush_or_close", "prepare_streams"]

OUTPUT = "standard output"


class _Output(io.TextIOWrapper):
    """Text output whose errors say that they are its own, where files have their names."""

    def write(self, text: str, /) -> int:
        with _named():
            return super().write(text)

    def flush(self) -> None:
        with _named():
            super().flush()


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT) from None


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    """Leaves a full disk to the main thread, which writes there, too, and says so in one line."""
    if not (isinstance(ended.exc_value, OSError) and ended.exc_value.errno in FULL):
        threading.__excepthook__(ended)


def prepare_streams() -> str:
    """Makes text that a terminal's encoding lacks show as escapes, and gives streams that are closed a place.

    Threads of libraries say nothing of a full disk from here on.

    Returns:
        What is wrong with standard output: "" if it is open. A file that a command opened would take its place.
    """
    threading.excepthook = _thread_ended
    closed = sys.stdout is None
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = getattr(sys, name)
        if stream is None:
            _open_nowhere(number)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for good
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    if type(sys.stdout) is io.TextIOWrapper:
        old = sys.stdout
        sys.stdout = _Output(
            old.buffer,
            old.encoding,
            old.errors,
            line_buffering=old.line_buffering,
            write_through=old.write_through,
        )
    return f"{OUTPUT} is closed; send it to a file, or to /dev/null" if closed else ""


def _open_nowhere(number: int) -> None:
    """Opens /dev/null under the number of a closed stream: the next file would get it, and what is printed."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def flush_or_close() -> None:
    """Flushes standard output; drops what it cannot take, which would fail again when the program ends."""
    try:
        sys.stdout.flush()
    except OSError:
        close_output()


def close_output() -> None:
    """Sends to nowhere what standard output still buffers."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
