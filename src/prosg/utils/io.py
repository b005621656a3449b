"""Files that are written whole or not at all, JSON, and JSON lines."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prosg.utils.errors import unreadable
from prosg.utils.locks import check_locks
from prosg.utils.outside import MOST_BYTES, parse_json, read_text
from prosg.utils.paths import user_path
from prosg.utils.replaceable import FolderKind, check_replaceable
from prosg.utils.staging import exchange, staging_folder, sync, sync_names
from prosg.utils.write_errors import write_errors

__all__ = ["CheckpointError", "iter_jsonl", "iter_lines", "read_json", "write_json", "write_lines", "written_whole"]


class CheckpointError(ValueError):
    """A file or folder that cannot be used as a checkpoint. The message names it and is one line."""


@contextmanager
def written_whole(
    path: str | os.PathLike[str], *, overwrite: bool = False, kind: FolderKind | None = None, durable: bool = True
) -> Iterator[Path]:
    """Writes a file or folder beside its place, and puts it there if the block succeeds, in one step.

    Args:
        path: The final name; its parent folders are created. A symbolic link stays, and what it names is written.
        overwrite: Replace a file, or a folder of this kind. Modes and owners stay.
        kind: Of a folder; None for a file.
        durable: Wait until it is on the disk, so that a power cut leaves the old or the new, too.

    Yields:
        The path to write to. Nothing is left of it if the block fails.

    Raises:
        FileExistsError: if `path` exists and may not be replaced. An empty folder always may.
        OSError: if it cannot be written.
        ValueError: if a folder that this process has locked was deleted meanwhile.
    """
    path = Path(os.path.realpath(user_path(path)))
    check_replaceable(path, overwrite=overwrite, kind=kind)
    check_locks()
    with write_errors(path), staging_folder(path) as folder:
        written = folder / path.name
        yield written
        _set_modes(written, path)
        if durable:
            sync(written)
        check_locks()
        check_replaceable(path, overwrite=overwrite, kind=kind)
        exchange(written, path, overwrite and path.exists())
        if durable:
            sync_names(path.parent)


def _set_modes(written: Path, path: Path) -> None:
    """Gives files the mode and owner of those they replace, new ones the mode that the umask asks for.

    safetensors makes them readable by the owner only.
    """
    umask = os.umask(0o022)
    os.umask(umask)
    for new in (written, *written.rglob("*")):
        old = path / new.relative_to(written)
        try:
            before = old.stat()
        except OSError:
            if new.is_file():
                new.chmod(0o666 & ~umask)
            continue
        if stat.S_IFMT(before.st_mode) == stat.S_IFMT(new.stat().st_mode):
            with suppress(OSError):  # not everybody may give files away
                os.chown(new, before.st_uid, before.st_gid)
            new.chmod(stat.S_IMODE(before.st_mode))


def write_json(path: str | os.PathLike[str], content: Any, *, overwrite: bool = True) -> None:
    """Writes a value as indented JSON, replacing the file unless told not to."""
    with written_whole(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str], *, overwrite: bool = True) -> int:
    """Writes strings as the lines of a file, replacing it unless told not to. Returns their number."""
    count = 0
    with (
        written_whole(path, overwrite=overwrite) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
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
        ValueError: as `iter_lines`, and as `parse_json`, also for a key that stands twice: "FILE:LINE: ...".
    """
    return ((number, parse_json(line, f"{path}:{number}", unique=True)) for number, line in iter_lines(path))


def iter_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """Yields line numbers (from 1) and lines of a file, skipping blank lines.

    Raises:
        ValueError: for a file that cannot be read, and a line that is too long: "FILE:LINE: ...".
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only the opening is guarded here
        number, line = 1, file.readline(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(unreadable(path, error)) from error
    with file:
        while line:
            if len(line) > MOST_BYTES:
                raise ValueError(f"{path}:{number}: a line of more than {MOST_BYTES} bytes; each line is one object")
            if line.strip():
                yield number, line
            number, line = number + 1, file.readline(MOST_BYTES + 1)
