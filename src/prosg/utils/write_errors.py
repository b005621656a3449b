"""Errors of everything that writes files, as one kind of error with the file's name in it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from prosg.utils.errors import FULL, causes
from prosg.utils.staging import LONGEST

__all__ = ["full_disk_errors", "write_errors"]


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Gives errors of a block that writes a file, or a folder, the name of it, and one type: OSError.

    Raises:
        OSError: for what the system, PyTorch's or safetensors' writers raise, with the path and the reason.
        KeyboardInterrupt: also where such a writer raised another error on top.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        chain = causes(error)
        if interrupt := next((one for one in chain if isinstance(one, KeyboardInterrupt)), None):
            raise interrupt from None
        cause = next((one for one in chain if isinstance(one, OSError) and _is_of(one, path)), None)
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and cause is not error:
            raise
        if isinstance(error, RuntimeError) and cause is None and "inline_container" not in text:
            raise
        number = cause.errno if cause is not None else _number(text)
        reason = os.strerror(number) if number else f"PyTorch could not write all of it: {text}"
        cure = "; make room, or name another place" if number is None or number in FULL else ""
        raise OSError(number or errno.EIO, f"cannot be written ({reason}){cure}", str(path)) from None


@contextmanager
def full_disk_errors(folder: Path) -> Iterator[None]:
    """Gives errors of a full disk that name no file, as those of loggers that write on their own, the folder's name."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or error.filename:
            raise
        with write_errors(folder):
            raise


def _number(text: str) -> int | None:
    """The system's number of an error that a library in Rust reports as text."""
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None


def _is_of(error: OSError, path: Path) -> bool:
    """Whether an error of the system names no file, or one that is written for `path`."""
    if error.errno is None:
        return False  # already a sentence
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    return (
        not name or name == str(path) or name.startswith((f"{path}/", str(path.with_name(f".{path.name[:LONGEST]}."))))
    )
