"""What killed processes left half written: found by its name, and cleared away.

.NAME.PID.prosg   a staging folder (`prosg.utils.staging`), locked as long as its process lives
.NAME.PID.old     what a process was replacing, where names cannot be exchanged in one step; it is put back
.NAME.PID.tmp     a staging file of older versions
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["STAGING", "is_same", "one_at_a_time", "remove", "remove_leftovers", "sweep"]

STAGING = "prosg"
one_at_a_time = threading.Lock()
"""Held while a thread looks for leftovers, or makes a staging folder that another would take for one."""
LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(?P<kind>prosg|old|tmp)")


def remove_leftovers(path: Path) -> None:
    """Removes what dead processes left beside a path, and puts back what stood there before they replaced it.

    Other programs name files like the older ones of ours: of those only the path's own count.
    """
    _clear(path.parent, path.name)


def sweep(folder: Path) -> None:
    """Removes what dead processes left anywhere in a folder that one command owns."""
    for inner, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if LEFTOVER.fullmatch(name) is None]
        _clear(Path(inner), None)


def _clear(folder: Path, only: str | None) -> None:
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return
    for name in sorted(names):  # .old before .prosg and .tmp of the same name: it may have to come back
        match = LEFTOVER.fullmatch(name)
        if match is None or (match["kind"] != STAGING and only not in (None, match["name"])):
            continue
        leftover, original = folder / name, folder / match["name"]
        with one_at_a_time, _abandoned(leftover, int(match["pid"])) as abandoned:
            if abandoned and match["kind"] == "old" and not os.path.lexists(original):
                leftover.rename(original)
            elif abandoned:
                remove(leftover)


@contextmanager
def _abandoned(leftover: Path, pid: int) -> Iterator[bool]:
    """Whether nobody writes there any more. A folder is locked while that is found out, and while the caller acts."""
    if pid != os.getpid() and _is_alive(pid):
        yield False
        return
    try:
        handle = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = is_same(handle, leftover)
    except BlockingIOError:
        free = False
    except OSError:
        free = pid != os.getpid()
    try:
        yield free
    finally:
        os.close(handle)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def remove(path: Path) -> None:
    """Removes a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def is_same(handle: int, path: Path) -> bool:
    """Returns whether a path still names what is open."""
    try:
        there = os.stat(path)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(handle))
