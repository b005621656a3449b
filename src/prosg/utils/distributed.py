"""Several processes that train one model, as started by `torchrun` or `accelerate launch`.

The launcher tells each process its place in environment variables (RANK, LOCAL_RANK, WORLD_SIZE); `join` makes the
processes a group of torch.distributed. Without a launcher there is one process, and every function here still works.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from prosg.utils.locks import locked

__all__ = [
    "barrier",
    "is_first",
    "join",
    "leave",
    "local_rank",
    "locked_once",
    "print_once",
    "rank",
    "run_on_first",
    "size",
    "sum_over_processes",
    "wait_for_launcher",
]

T = TypeVar("T")

GROUP_TIMEOUT = timedelta(hours=12)
"""How long processes wait for one another: the first alone learns prompts and writes files, which may take longer than
the half an hour (gloo) or ten minutes (NCCL) of PyTorch. The launcher notices a process that dies."""
LAUNCHER_SECONDS = 10.0
"""How long a launcher may take to end the other processes once one has failed."""


def rank() -> int:
    """Returns this process' number among all, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Returns this process' number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Returns whether this process is the one that writes results, logs and checkpoints."""
    return rank() == 0


def join(device: str) -> str:
    """Joins the launcher's group, if there is one. Returns this process' own device, like "cuda:1"."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return device
    from accelerate import PartialState  # by which the Trainer joins too; takes a second to import

    PartialState(cpu=device == "cpu", timeout=GROUP_TIMEOUT)
    return "cpu" if device == "cpu" else f"cuda:{local_rank()}"


def leave() -> None:
    """Leaves the group; PyTorch warns if a process ends within one."""
    if size() > 1:
        dist.destroy_process_group()


def barrier() -> None:
    """Waits until every process has come here."""
    if size() > 1:
        dist.barrier()


def run_on_first(run: Callable[[], T]) -> T:
    """Calls `run` in the first process only, and returns its result in all of them. The result is pickled."""
    if size() == 1:
        return run()
    box: list[Any] = [run() if is_first() else None]
    dist.broadcast_object_list(box)
    value: T = box[0]
    return value


@contextmanager
def locked_once(folder: Path) -> Iterator[None]:
    """Holds the lock on a folder that all processes write into, in the first. Raises ValueError in all of them."""
    with ExitStack() as held:

        def lock() -> str:
            try:
                held.enter_context(locked(folder))
            except (ValueError, OSError) as error:
                return str(error)
            return ""

        if refusal := run_on_first(lock):
            raise ValueError(refusal)
        yield


def sum_over_processes(value: float, device: torch.device) -> float:
    """Returns the sum of all processes' values."""
    if size() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return float(summed)


def print_once(*words: Any) -> None:
    """Prints on stderr, in the first process only."""
    if is_first():
        print(*words, file=sys.stderr)


def wait_for_launcher() -> None:
    """Gives the launcher time to end a failed process before it prints its error.

    If all processes fail alike, the first one on each machine prints the error for all. If only another one failed, it
    is not ended, and returns from here to print its own.
    """
    if local_rank() > 0:
        time.sleep(LAUNCHER_SECONDS)
