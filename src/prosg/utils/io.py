"""Files and folders that are either written whole or not there: written beside, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

__all__ = ["CheckpointError", "iter_jsonl", "read_json", "write_json", "write_lines", "written_whole"]


@contextmanager
def written_whole(
    path: str | os.PathLike[str], *, overwrite: bool = False, marker: str | None = None
) -> Iterator[Path]:
    """A name beside `path` to write a file or folder under; it becomes `path` if the block succeeds, else vanishes.

    An existing file is replaced only with `overwrite`, an existing folder only if it also holds a file called `marker`,
    so that no other folder can be lost to a mistyped path. An empty folder may always be replaced.
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
        _open_to_readers(temporary)
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


def _open_to_readers(written: Path) -> None:
    """Give files the mode that others have: safetensors writes for the owner's eyes only."""
    umask = os.umask(0o022)
    os.umask(umask)
    for file in written.rglob("*") if written.is_dir() else [written]:
        if file.is_file():
            file.chmod(0o666 & ~umask)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """A value as indented JSON; what was there is replaced."""
    with written_whole(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """One line each, as they come; what was there is replaced. Returns how many were written."""
    count = 0
    with written_whole(path, overwrite=True) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


class CheckpointError(ValueError):
    """A file or folder that cannot be used as a checkpoint."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError for anything else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not an object")
    return content


def iter_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, Any]]:
    """Line numbers (from 1) and decoded objects of a JSON lines file; blank lines are passed over.

    Raises ValueError `FILE:LINE: ...` for a line that is not JSON or not UTF-8, and for a file that cannot be read.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only the opening is guarded here
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: not UTF-8 text ({error.reason})") from error
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error.msg}); each line is one object") from error
