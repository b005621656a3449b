"""RWKV-7's recurrence, compiled (`wkv7.c`): its call and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.ops.library import Library

__all__ = ["LIBRARY", "wkv7_c"]

LIBRARY = Library("wkv7", abi=1, sizes=3, pointers={"forward": 11, "backward": 18})

PARALLEL_FROM = 1 << 21
"""B T H N N from which on more than one thread is worth waking."""


def _call(function: str, r: Tensor, *tensors: Tensor | None) -> None:
    """An item is a row's head."""
    batch, time, heads, size = r.shape
    parallel = r.numel() * size >= PARALLEL_FROM
    LIBRARY.call(function, r.dtype, (time, heads, size), batch * heads, parallel, *tensors)


class _Recurrence(torch.autograd.Function):
    """Backward computes the states once more; of forward it keeps only what was removed from each, S a."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        r, state, lengths = args[0], args[6], args[7]
        y, after, removed = torch.empty_like(r), torch.empty_like(state), torch.empty_like(r)
        _call("forward", r, lengths, *args[:7], y, after, removed)
        ctx.save_for_backward(*args, removed)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gafter: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, lengths, removed = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in inputs]
        _call("backward", removed, lengths, *inputs, removed, gy.contiguous(), gafter.contiguous(), *gradients)
        return *gradients, None


def wkv7_c(
    r: Float[Tensor, "B T H N"],
    w: Float[Tensor, "B T H N"],
    k: Float[Tensor, "B T H N"],
    v: Float[Tensor, "B T H N"],
    a: Float[Tensor, "B T H N"],
    b: Float[Tensor, "B T H N"],
    state: Float[Tensor, "B H N N"],
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H N"], Float[Tensor, "B H N N"]]:
    """The recurrence by the compiled library: fp32 or fp64 on the CPU, one type for all; see `wkv7`.

    Raises ValueError if types or shapes do not fit together, or a tensor is elsewhere.
    """
    tensors = (r, w, k, v, a, b, state)
    batch, _, heads, size = k.shape
    LIBRARY.check(tensors, (*[k.shape] * 6, (batch, heads, size, size)), k.dtype)
    lengths = LIBRARY.lengths(lengths, batch)
    inputs = [x.contiguous() for x in tensors]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        y, after = _Recurrence.apply(*inputs, lengths)  # type: ignore[no-untyped-call]
    else:
        y, after = torch.empty_like(inputs[0]), torch.empty_like(inputs[6])
        _call("forward", k, lengths, *inputs, y, after, None)
    return y, after
