"""RWKV-7's time-mixing recurrence (arXiv 2503.14456, eq. 16-17), step by step: the oracle of the fast kernels.

Per head, S (N, N) with rows for values and columns for keys, w = log of the decay of each column:

    S <- S diag(e^w) + (S a) b^T + v k^T;      y = S r            (S is read after the write)

RWKV-7 takes a = -kk, b = kk * (in-context learning rate), with kk a unit vector: it replaces a part of what S holds
at kk. An anchor's pull (`ops.pull`) comes after y is read.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prosg.ops.pull import Pull, pull_memory

__all__ = ["naive_wkv7"]


def naive_wkv7(
    r: Float[Tensor, "B T H N"],
    w: Float[Tensor, "B T H N"],
    k: Float[Tensor, "B T H N"],
    v: Float[Tensor, "B T H N"],
    a: Float[Tensor, "B T H N"],
    b: Float[Tensor, "B T H N"],
    state: Float[Tensor, "B H N N"],
    lengths: Int[Tensor, " B"] | None = None,
    pull: Pull | None = None,
) -> tuple[Float[Tensor, "B T H N"], Float[Tensor, "B H N N"]]:
    """The equations above in the type of the arguments, differentiated by autograd; see `WKV7Kernel`."""
    outputs = []
    for t in range(k.shape[1]):
        removed = state @ a[:, t].unsqueeze(-1)
        step = (
            state * w[:, t].exp().unsqueeze(-2)
            + removed @ b[:, t].unsqueeze(-2)
            + v[:, t].unsqueeze(-1) @ k[:, t].unsqueeze(-2)
        )
        y = (step @ r[:, t].unsqueeze(-1)).squeeze(-1)
        if pull is not None:
            step = pull_memory(step, pull)
        if lengths is None:
            state = step
        else:
            valid = (t < lengths).view(-1, 1, 1)
            y = torch.where(valid, y, 0)
            state = torch.where(valid.unsqueeze(-1), step, state)
        outputs.append(y)
    return torch.stack(outputs, 1), state
