"""Mamba's selective scan by the compiled library (`selective_scan.c`), forward and backward."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.ops.library import CompiledLibrary

__all__ = ["LIBRARY", "compiled_selective_scan"]

LIBRARY = CompiledLibrary("selective_scan", abi=1, sizes=3, pointers={"forward": 9, "backward": 14})

PARALLEL_FROM = 1 << 20
"""Size of the work, B T D N, from which on several threads are used."""


@cache
def _block_and_segment() -> tuple[int, int]:
    """Channels in a block (an item is a row's block), and steps between the states that forward saves."""
    return LIBRARY.constant("block"), LIBRARY.constant("segment")


def _call(function: str, x: Tensor, size: int, *tensors: Tensor | None) -> None:
    batch, time, channels = x.shape
    items = batch * -(-channels // _block_and_segment()[0])
    LIBRARY.call(function, x.dtype, (time, channels, size), items, x.numel() * size >= PARALLEL_FROM, *tensors)


class _CompiledSelectiveScan(torch.autograd.Function):
    """Forward saves the state at the beginning of every segment; backward recomputes those between."""

    @staticmethod
    def forward(ctx: Any, *args: Tensor) -> tuple[Tensor, Tensor]:
        x, state = args[0], args[5]
        batch, channels, size = state.shape
        segments = -(-x.shape[1] // _block_and_segment()[1])
        y, after, saved = torch.empty_like(x), torch.empty_like(state), x.new_empty(batch, segments, size, channels)
        _call("forward", x, size, *args, y, after, saved)
        ctx.save_for_backward(*args[:5], saved)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gafter: Tensor) -> tuple[Tensor, ...]:
        *inputs, saved = ctx.saved_tensors
        x, _, A, B, _ = inputs
        batch, time, size = B.shape
        gx, gdt, gstate = torch.empty_like(x), torch.empty_like(x), torch.empty_like(gafter)
        # To be summed over rows and over blocks of channels: every item writes a part of its own.
        gA = A.new_empty(batch, *A.shape)
        gB, gC = B.new_empty(2, batch, -(-x.shape[2] // _block_and_segment()[0]), time, size)
        incoming = gy.contiguous(), gafter.contiguous()
        _call("backward", x, size, *inputs, saved, *incoming, gx, gdt, gA, gB, gC, gstate)
        return gx, gdt, gA.sum(0), gB.sum(1), gC.sum(1), gstate


def compiled_selective_scan(
    x: Float[Tensor, "B T D"],
    dt: Float[Tensor, "B T D"],
    A: Float[Tensor, "D N"],
    B: Float[Tensor, "B T N"],
    C: Float[Tensor, "B T N"],
    state: Float[Tensor, "B D N"],
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D N"]]:
    """The scan on the CPU, in fp32 or fp64 (the same for all tensors); see `SelectiveScanKernel`.

    Raises ValueError for types, shapes or devices that do not fit.
    """
    tensors = (x, dt, A, B, C, state)
    batch, time, channels = x.shape
    size = A.shape[1]
    small, memory = (batch, time, size), (batch, channels, size)
    LIBRARY.check_tensors(tensors, (x.shape, x.shape, (channels, size), small, small, memory), x.dtype)
    inputs = [z.contiguous() for z in tensors]
    if torch.is_grad_enabled() and any(z.requires_grad for z in tensors):
        y, after = _CompiledSelectiveScan.apply(*inputs)  # type: ignore[no-untyped-call]
    else:
        y, after = torch.empty_like(inputs[0]), torch.empty_like(inputs[5])
        _call("forward", x, size, *inputs, y, after, None)
    return y, after
