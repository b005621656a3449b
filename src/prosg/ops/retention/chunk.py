"""Retention in parallel over time (eq. 5), and over chunks of time (eq. 7), in plain PyTorch.

`naive` has the symbols and equations. Queries and keys are rotated by their position in the call, so that between
chunks the memory only decays; at the end it is rotated back by the length of the call.

A pull S_t <- lam S_t + P is retention with decay lam gamma and keys lam k, and P written at every step, of which
F_t = sum_{j < t} (lam gamma e^{-i theta})^j is left. What is read is the memory before its pull: (S_t q - P q) / lam.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prosg.core.tensors import valid_mask
from prosg.ops.pull import Pull
from prosg.ops.retention.naive import angles, as_pairs, elapse, recurrent_retention, rotate_pairs

__all__ = ["chunked_retention", "parallel_retention"]

CHUNK = 64
"""Largest number of steps in a chunk."""


def parallel_retention(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    decay: Float[Tensor, " H"],
    memory: Float[Tensor, "B H V K"],
    lengths: Int[Tensor, " B"] | None = None,
    pull: Pull | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """All steps in one chunk (eq. 5): work that grows with the square of T. See `RetentionKernel`."""
    return _pulled(q, k, v, decay, memory, lengths, pull, 1)


def chunked_retention(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    v: Float[Tensor, "B T H V"],
    decay: Float[Tensor, " H"],
    memory: Float[Tensor, "B H V K"],
    lengths: Int[Tensor, " B"] | None = None,
    pull: Pull | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """Chunks of at most 64 steps (eq. 7): work that grows with T. See `RetentionKernel`."""
    time = q.shape[1]
    if time == 1:
        # There is nothing to parallelize: the plain step has fewer operations.
        return recurrent_retention(q, k, v, decay, memory, lengths, pull)
    return _pulled(q, k, v, decay, memory, lengths, pull, -(-time // CHUNK))


def _pulled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    memory: Tensor,
    lengths: Tensor | None,
    pull: Pull | None,
    n: int,
) -> tuple[Tensor, Tensor]:
    """`_in_chunks`, and what a pull adds to it."""
    if pull is None:
        return _in_chunks(q, k, v, decay, memory, lengths, n)
    time, device, keep = q.shape[1], q.device, pull.log_keep.exp()[:, None, :, None]
    y, after = _in_chunks(q, k * keep, v, decay + pull.log_keep, memory, lengths, n)
    total = torch.full((1,), time, device=device) if lengths is None else lengths
    # (B, H, pairs): the logarithm of lam gamma e^{-i theta}
    log = (decay + pull.log_keep).double().unsqueeze(2) - 1j * angles(q.shape[3], device)
    left = torch.expm1(log.unsqueeze(1) * _count(time, device).view(-1, 1, 1)) / torch.expm1(log).unsqueeze(1)
    read = _times(q, (left - 1).conj())
    if lengths is not None:
        read = read * valid_mask(lengths, time).view(*q.shape[:2], 1, 1)
    y = (y + (read.transpose(1, 2) @ pull.memory.mT).transpose(1, 2)) / keep
    added = torch.expm1(log * total.view(-1, 1, 1)) / torch.expm1(log)
    return y, after + _times(pull.memory, added.unsqueeze(2))


def _times(x: Tensor, factor: Tensor) -> Tensor:
    """x (..., K) as complex pairs, times a complex factor (..., K / 2)."""
    return torch.view_as_real(as_pairs(x.double()) * factor).flatten(-2).to(x.dtype)


def _in_chunks(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, memory: Tensor, lengths: Tensor | None, n: int
) -> tuple[Tensor, Tensor]:
    """n chunks of c steps."""
    time, device, dtype = q.shape[1], q.device, q.dtype
    c = -(-time // n)
    unit, position = torch.ones((), dtype=torch.float64, device=device), _count(time, device).view(-1, 1, 1)
    angle = position * angles(q.shape[3], device)
    q, k = rotate_pairs(q, unit, angle), rotate_pairs(k, unit, angle)

    def cut(x: Tensor) -> Tensor:
        """(B, T, H, .) -> (B, H, n, c, .); steps that the last chunk lacks are 0."""
        pieces: Tensor = F.pad(x, (0, 0, 0, 0, 0, n * c - time)).unflatten(1, (n, c))
        return pieces.permute(0, 3, 1, 2, 4)

    q, k, v = cut(q), cut(k), cut(v)
    total = torch.full((1,), time, device=device) if lengths is None else lengths
    log, position = decay.double()[..., None, None, None], _count(c, device).unsqueeze(1)
    steps = (total.view(-1, 1, 1, 1, 1) - c * torch.arange(n, device=device).view(-1, 1, 1)).clamp(0, c)
    left = steps - position  # (B or 1, 1, n, c, 1): valid steps of the chunk after this one
    since_start = torch.exp(log * position).to(dtype)
    between = torch.exp(log * (position - position.mT).clamp(min=0)).tril().to(dtype)  # D of eq. 5
    until_end = (torch.exp(log * left.clamp(min=0)) * (left >= 0)).to(dtype)
    across = torch.exp(log * steps).to(dtype)

    written = v.mT @ (k * until_end)
    starts = []
    for i in range(n):
        starts.append(memory)
        memory = across[:, :, i] * memory + written[:, :, i]
    y = ((q @ k.mT) * between) @ v + (q * since_start) @ torch.stack(starts, 2).mT
    y = y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time]
    if lengths is not None:
        y = torch.where((_count(time, device) <= lengths.unsqueeze(1)).view(*y.shape[:2], 1, 1), y, 0)
    return y, elapse(memory, torch.zeros_like(decay), total)


def _count(steps: int, device: torch.device) -> Tensor:
    """1, 2, ..., steps in fp64."""
    return torch.arange(1, steps + 1, dtype=torch.float64, device=device)
