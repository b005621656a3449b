"""Several processes that train one model, as `torchrun` and `accelerate launch` start them.

Who a process is stands in the environment (RANK, LOCAL_RANK, WORLD_SIZE); the group itself is PyTorch's, joined once by
`join`. Without a launcher every function here is that of a group of one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

__all__ = ["barrier", "first", "is_first", "join", "leave", "local_rank", "rank", "say", "total", "wait_to_be_ended"]

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds that a process which failed waits for the first one to say why."""


def rank() -> int:
    """This process' place in the group, 0 for the first."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Its place on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def size() -> int:
    """Processes in the group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes results, logs and checkpoints."""
    return rank() == 0


def join(device: str) -> str:
    """Join the group that a launcher made, if one did; returns this process' own device, like "cuda:1"."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return device
    from accelerate import PartialState  # what the Trainer joins by; it takes a second to import

    PartialState(cpu=device == "cpu")
    return "cpu" if device == "cpu" else f"cuda:{local_rank()}"


def leave() -> None:
    """Leave the group: PyTorch warns where a process ends in one."""
    if size() > 1:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    if size() > 1:
        dist.barrier()


def first(run: Callable[[], T]) -> T:
    """What `run` returns in the first process, in all of them. The others do not run it."""
    if size() == 1:
        return run()
    box: list[Any] = [run() if is_first() else None]
    dist.broadcast_object_list(box)
    value: T = box[0]
    return value


def total(value: float, device: torch.device) -> float:
    """The sum of every process' value."""
    if size() == 1:
        return value
    summed = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return float(summed)


def say(*words: Any) -> None:
    """Print on stderr, once for all processes."""
    if is_first():
        print(*words, file=sys.stderr)


def wait_to_be_ended() -> None:
    """Let the first process of this machine speak for all: a launcher ends the others when it has ended.

    Where only this one failed nobody ends it, and it goes on after a while, to say so itself.
    """
    if local_rank() > 0:
        time.sleep(PATIENCE)
