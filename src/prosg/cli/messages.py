"""What users are told of errors."""

from __future__ import annotations

import os

from prosg.cli.streams import OUTPUT
from prosg.utils.replaceable import ReplaceableError
from prosg.utils.spelling import meant_path

__all__ = ["message_of"]


def message_of(error: BaseException) -> str | None:
    """What a user is told of an error that can be mended; None for any other."""
    if isinstance(error, ReplaceableError):
        return error.named("--overwrite")
    if isinstance(error, OSError):
        if error.filename == OUTPUT:
            return f"{OUTPUT} cannot be written ({error.strerror}); send it to another place"
        if isinstance(error, FileExistsError) and error.filename is not None and not os.path.isdir(error.filename):
            return f"{error.filename}: is no folder, and one has to be there; name another place"
        if error.filename is not None and error.strerror is not None:
            near = meant_path(error.filename) if isinstance(error, FileNotFoundError) else ""
            return f"{error.filename}: {error.strerror}{near}"
        return str(error)
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, EOFError):
        return "standard input ended; this command asks questions there"
    if type(error).__name__ == "PanicException":  # of libraries written in Rust; no class of theirs can be imported
        return f"a tokenizer failed on what it was given, its file or a text ({error}); give another with --tokenizer"
    return None
