"""Files that are written whole or not at all, JSON, and JSON lines."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from prosg.utils.outside import MOST_BYTES, parse_json, read_text

__all__ = ["CheckpointError", "iter_jsonl", "read_json", "write_json", "write_lines", "written_whole"]


class CheckpointError(ValueError):
    """A file or folder that cannot be used as a checkpoint. The message names it and is one line."""


@contextmanager
def written_whole(
    path: str | os.PathLike[str], *, overwrite: bool = False, marker: str | None = None
) -> Iterator[Path]:
    """Writes a file or folder under a temporary name, and renames it to `path` if the block succeeds.

    Args:
        path: The final name; its parent folders are created.
        overwrite: Replace a file, or a folder that holds a file called `marker`.
        marker: Identifies folders that may be replaced, so that a mistyped path cannot destroy any other folder.

    Yields:
        The temporary path, beside the final one. Nothing is left of it if the block fails.

    Raises:
        FileExistsError: if `path` exists and may not be replaced. An empty folder always may.
        OSError: if it cannot be written.
    """
    path = Path(os.path.abspath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise FileExistsError(f"{path}: exists; pass overwrite=True (--overwrite) to replace it")
        if marker is None or not (path / marker).is_file():
            raise FileExistsError(f"{path}: a folder without {marker or 'a checkpoint'}; not replaced")
    elif path.is_file() and not overwrite:
        raise FileExistsError(f"{path}: exists; pass overwrite=True (--overwrite) to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        _set_default_modes(temporary)
        if path.is_dir():
            path.rename(replaced)
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({error})") from None
    except OSError as error:
        if error.filename is None or os.fspath(error.filename) != str(temporary):
            raise
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from None
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        for leftover in (temporary, replaced):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def _set_default_modes(written: Path) -> None:
    """Gives files the mode that the umask asks for: safetensors makes them readable by the owner only."""
    umask = os.umask(0o022)
    os.umask(umask)
    for file in written.rglob("*") if written.is_dir() else [written]:
        if file.is_file():
            file.chmod(0o666 & ~umask)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes a value as indented JSON, replacing the file."""
    with written_whole(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """Writes strings as the lines of a file, replacing it. Returns their number."""
    count = 0
    with written_whole(path, overwrite=True) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


def read_json(path: Path, *, finite: bool = False) -> dict[str, Any]:
    """Reads a JSON object. Raises CheckpointError for anything else.

    finite: Refuse NaN and Infinity, which files of this package's own results may hold.
    """
    try:
        content = parse_json(read_text(path), str(path), finite=finite)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not an object")
    return content


def iter_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """Yields line numbers (from 1) and decoded values of a JSON lines file, skipping blank lines.

    Raises:
        ValueError: for a file that cannot be read, a line that is too long, and as `parse_json`: "FILE:LINE: ...".
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only the opening is guarded here
        number, line = 1, file.readline(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        while line:
            if len(line) > MOST_BYTES:
                raise ValueError(f"{path}:{number}: a line of more than {MOST_BYTES} bytes; each line is one object")
            if line.strip():
                yield number, parse_json(line, f"{path}:{number}")
            number, line = number + 1, file.readline(MOST_BYTES + 1)
