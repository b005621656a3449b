"""RWKV-7's recurrence by the compiled library (`wkv7.c`), forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.ops.library import CompiledLibrary

__all__ = ["LIBRARY", "compiled_wkv7"]

LIBRARY = CompiledLibrary("wkv7", abi=1, sizes=3, pointers={"forward": 11, "backward": 18})

PARALLEL_FROM = 1 << 21
"""Size of the work, B T H N N, from which on several threads are used."""


def _call(function: str, r: Tensor, *tensors: Tensor | None) -> None:
    # An item is a row's head.
    batch, time, heads, size = r.shape
    parallel = r.numel() * size >= PARALLEL_FROM
    LIBRARY.call(function, r.dtype, (time, heads, size), batch * heads, parallel, *tensors)


class _CompiledWKV7(torch.autograd.Function):
    """Forward saves only what was removed from each state, S a; backward recomputes the states."""

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


def compiled_wkv7(
    r: Float[Tensor, "B T H N"],
    w: Float[Tensor, "B T H N"],
    k: Float[Tensor, "B T H N"],
    v: Float[Tensor, "B T H N"],
    a: Float[Tensor, "B T H N"],
    b: Float[Tensor, "B T H N"],
    state: Float[Tensor, "B H N N"],
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H N"], Float[Tensor, "B H N N"]]:
    """The recurrence on the CPU, in fp32 or fp64 (the same for all tensors); see `WKV7Kernel`.

    Raises ValueError for types, shapes or devices that do not fit.
    """
    tensors = (r, w, k, v, a, b, state)
    batch, _, heads, size = k.shape
    LIBRARY.check_tensors(tensors, (*[k.shape] * 6, (batch, heads, size, size)), k.dtype)
    lengths = LIBRARY.prepare_lengths(lengths, batch)
    inputs = [x.contiguous() for x in tensors]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        y, after = _CompiledWKV7.apply(*inputs, lengths)  # type: ignore[no-untyped-call]
    else:
        y, after = torch.empty_like(inputs[0]), torch.empty_like(inputs[6])
        _call("forward", k, lengths, *inputs, y, after, None)
    return y, after
