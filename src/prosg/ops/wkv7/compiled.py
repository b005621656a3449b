"""RWKV-7's recurrence by the compiled library (`wkv7.c`), forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.ops.library import CompiledLibrary
from prosg.ops.pull import Pull

__all__ = ["LIBRARY", "compiled_wkv7"]

LIBRARY = CompiledLibrary("wkv7", abi=2, sizes=3, pointers={"forward": 13, "backward": 22})

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
        lengths, *inputs = args
        r, state = inputs[0], inputs[6]
        y, after, removed = torch.empty_like(r), torch.empty_like(state), torch.empty_like(r)
        _call("forward", r, lengths, *inputs, y, after, removed)
        ctx.save_for_backward(*args, removed)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gafter: Tensor) -> tuple[Tensor | None, ...]:
        lengths, *inputs, removed = ctx.saved_tensors
        gradients = [None if x is None else torch.empty_like(x) for x in inputs]
        _call("backward", removed, lengths, *inputs, removed, gy.contiguous(), gafter.contiguous(), *gradients)
        return None, *gradients


def compiled_wkv7(
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
    """The recurrence on the CPU, in fp32 or fp64 (the same for all tensors); see `WKV7Kernel`.

    Raises ValueError for types, shapes or devices that do not fit.
    """
    batch, _, heads, size = k.shape
    of_state = (batch, heads, size, size)
    tensors, shapes = [r, w, k, v, a, b, state], [*[k.shape] * 6, of_state]
    if pull is not None:
        tensors += [pull.memory, pull.log_keep.exp()]
        shapes += [of_state, (batch, heads)]
    LIBRARY.check_tensors(tensors, shapes, k.dtype)
    lengths = LIBRARY.prepare_lengths(lengths, batch)
    inputs = [x.contiguous() for x in tensors]
    no_pull: list[None] = [] if pull is not None else [None, None]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        y, after = _CompiledWKV7.apply(lengths, *inputs, *no_pull)  # type: ignore[no-untyped-call]
    else:
        y, after = torch.empty_like(inputs[0]), torch.empty_like(inputs[6])
        _call("forward", k, lengths, *inputs, *no_pull, y, after, None)
    return y, after
