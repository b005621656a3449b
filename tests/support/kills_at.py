"""Commands that are killed at chosen moments of their writing, and what is found afterwards.

A moment is an event of Python's audit hooks, as a file is opened, renamed, removed and so on, that concerns a folder.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prosg.utils.leftovers import LEFTOVER

EVENTS = re.compile(r"open|os\.(rename|remove|mkdir|rmdir|chmod|chown|link|truncate)|ctypes\.call_function")


def in_child(run: Callable[[], Any], folder: Path, at: int = 0) -> tuple[int, int]:
    """Runs something in a forked process, killed at an event.

    Args:
        run: What to do; its result is ignored.
        folder: Events are those with a path in it, and calls into C, by which names are exchanged.
        at: The event, from 1; 0 for none.

    Returns:
        The number of events that were counted, and the signal that ended the process, 0 if none did.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        count, status = 0, 99

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if EVENTS.fullmatch(event) and (event.startswith("ctypes") or str(folder) in repr(arguments)):
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            run()
            status = 0
        finally:
            os.write(write, str(count).encode())
            os._exit(status)
    os.close(write)
    counted = b"".join(iter(lambda: os.read(read, 100), b""))
    os.close(read)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the command failed without being killed"
    return int(counted or 0), os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def moments(run: Callable[[], Any], folder: Path, most: int = 20) -> Iterator[int]:
    """Yields numbers of events at which `run` can be killed, evenly over all that it has in one run. It is run once."""
    total, ended_by = in_child(run, folder)
    assert not ended_by
    yield from sorted({1 + number * total // most for number in range(most)})


def leftovers(folder: Path) -> list[Path]:
    """What is left of processes anywhere in a folder."""
    return [path for path in folder.rglob(".*") if LEFTOVER.fullmatch(path.name) or path.name == ".writing"]
