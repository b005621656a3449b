"""Staging folders: where a file or folder is written before it takes its place, and how it takes it.

    .NAME.PID.prosg/NAME    what a process writes; the folder is locked as long as the process lives
    .NAME.PID.old           what is replaced, for a moment, on systems that cannot exchange two names in one step

A process that is killed leaves such names; `prosg.utils.leftovers` clears them away.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prosg.utils.leftovers import STAGING, one_at_a_time, remove, remove_leftovers
from prosg.utils.replaceable import ReplaceableError

__all__ = ["LONGEST", "exchange", "staging_folder", "sync", "sync_names"]

LONGEST = 200
"""Characters of a name in that of its staging folder, for systems that allow no more than 255."""
LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD, NO_REPLACE, EXCHANGE = -100, 1, 2
CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM)
"""What a system says that has no such rename."""


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """Makes a folder beside a path to write in, and removes it in the end, with all that is in it.

    What dead processes left beside the path is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    folder = path.with_name(f".{path.name[:LONGEST]}.{os.getpid()}.{STAGING}")
    with one_at_a_time:
        folder.mkdir(mode=0o700)
        handle = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # some file systems lock no folders; the number of the process is known all the same
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        remove(folder)
        os.close(handle)


def sync(path: Path) -> None:
    """Waits until a file, or a folder with all that is in it, is on the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            if not inner.is_symlink():
                sync(inner)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # file systems that keep nothing
            raise
    finally:
        os.close(handle)


def sync_names(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system can
            os.fsync(handle)
    finally:
        os.close(handle)


def exchange(written: Path, path: Path, replace: bool) -> None:
    """Gives what was written its final name. A process that is killed leaves there the old or the new, nothing between.

    Args:
        written: A file or folder.
        path: The final name, in the same file system.
        replace: Whether something else may stand there now; the caller has made sure that it may go. A folder that was
            replaced stands at `written` afterwards, or is removed.

    Raises:
        FileExistsError: if there is something that may not be replaced.
        OSError: if it cannot be written.
    """
    if not replace:
        if not _rename(written, path, NO_REPLACE):
            if os.path.lexists(path) and not _is_empty_folder(path):
                raise ReplaceableError(path)
            written.rename(path)
    elif path.is_dir() and not _rename(written, path, EXCHANGE):
        replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(replaced)
        try:
            written.rename(path)
        except BaseException:
            replaced.rename(path)
            raise
        remove(replaced)
    elif not path.is_dir():
        written.replace(path)


def _rename(source: Path, target: Path, flag: int) -> bool:
    """Renames in one step, with a flag of Linux; returns False where there is no such thing."""
    call = getattr(LIBC, "renameat2", None)
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in (*CANNOT, errno.EEXIST):
        return False
    raise OSError(number, os.strerror(number), str(target))


def _is_empty_folder(path: Path) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode) and not any(path.iterdir())
