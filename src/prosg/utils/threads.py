"""How many CPU threads PyTorch computes on.

Two threads share a product and wait for each other after it. On an idle machine that is faster; beside other processes
one of them often waits for a core, and the other, spinning, burns its own: a job can take many times as long as on one.
"""

from __future__ import annotations

import statistics
import time

import torch

__all__ = ["seconds_on", "settle_threads"]

WORTH = 0.9
"""Share of one thread's time that several may take, to be worth it."""
ROUNDS = 3


def settle_threads() -> int:
    """Goes down to one thread unless several are faster right now, which a probe of some tenths of a second tells.

    Several are as many as PyTorch would use: the cores, or what OMP_NUM_THREADS says.

    Returns:
        The number of threads that PyTorch computes on from here on.
    """
    several = torch.get_num_threads()
    if several == 1:
        return 1
    rounds = [(seconds_on(1), seconds_on(several)) for _ in range(ROUNDS)]  # in turns: other processes come and go
    one, many = (statistics.median(times) for times in zip(*rounds, strict=True))
    torch.set_num_threads(several if many < WORTH * one else 1)
    return torch.get_num_threads()


def seconds_on(threads: int) -> float:
    """Measures products and sums of the sizes of a small model's training on so many threads."""
    torch.set_num_threads(threads)
    x, w = torch.ones(1024, 96), torch.full((96, 384), 0.01)
    torch.relu(x @ w)  # the first call starts the threads
    start = time.perf_counter()
    for _ in range(6):
        h = torch.relu(x @ w)
        x = torch.nn.functional.layer_norm(h @ w.mT, (96,))
    return time.perf_counter() - start
