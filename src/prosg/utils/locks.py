"""Locks on folders: one command at a time owns what it writes.

The folder itself is locked, and a file `.lock` in it for file systems that lock no folders. Both locks end with the
process at the latest. A folder that is deleted, or replaced, takes its lock with it, and another command may lock what
then has its name: whoever writes asks `check_locks` first, and stops.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prosg.utils.leftovers import is_same, sweep
from prosg.utils.write_errors import write_errors

__all__ = ["check_locks", "lock_file", "locked"]

LOCK = ".lock"
_held: dict[Path, list[int]] = {}
"""By folder the handles whose paths have to stay what they were when this process locked them."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder, created if missing, and clears away what dead processes left in it.

    Raises:
        ValueError: if another process holds it, and if the folder was deleted meanwhile.
        OSError: if it cannot be created or written in, with its path and the reason.
    """
    folder = Path(os.path.realpath(folder))
    with ExitStack() as closing:
        while True:
            handles = []
            with write_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for path, flags in ((folder, os.O_RDONLY), (folder / LOCK, os.O_RDWR | os.O_CREAT)):
                    try:
                        handles.append(os.open(path, flags, 0o666))
                    except FileNotFoundError:
                        break  # deleted since
                    closing.callback(os.close, handles[-1])
            if len(handles) == 2:
                folder_locks = _lock(handles[0], folder, optional=True)
                _lock(handles[1], folder)
                guarded = handles[:1] if folder_locks else handles
                if _in_place(folder, guarded):
                    break
        _held[folder] = guarded
        sweep(folder)
        try:
            yield
        finally:
            del _held[folder]


def lock_file(handle: int, path: Path) -> None:
    """Locks an open file until it is closed. Raises ValueError if another process has locked it."""
    _lock(handle, path)


def _lock(handle: int, path: Path, optional: bool = False) -> bool:
    """Locks an open file or folder; returns False where that is `optional` and the file system cannot."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{path}: another command is at work there; wait until it is done") from None
    except OSError:
        if not optional:
            raise
        return False
    return True


def check_locks() -> None:
    """Raises ValueError if a folder that this process has locked is no longer what it was."""
    for folder, handles in _held.items():
        if not _in_place(folder, handles):
            raise ValueError(
                f"{folder}: was deleted or replaced while this command was at work there; nothing more is written. "
                "Start it again"
            )


def _in_place(folder: Path, handles: list[int]) -> bool:
    """Whether handles are still those of the folder and of the lock's file in it."""
    return all(is_same(handle, path) for handle, path in zip(handles, (folder, folder / LOCK), strict=False))
