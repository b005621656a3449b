"""RWKV-4's recurrence by the compiled library (`wkv4.c`), forward and backward."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.ops.library import CompiledLibrary
from prosg.ops.wkv4.naive import WKV4Memory

__all__ = ["LIBRARY", "compiled_wkv4"]

LIBRARY = CompiledLibrary("wkv4", abi=1, sizes=2, pointers={"forward": 12, "backward": 17})

PARALLEL_FROM = 1 << 18
"""Size of the work, B T C, from which on several threads are used."""


@cache
def _lanes() -> int:
    """Channels in a block; an item is a row's block."""
    return LIBRARY.constant("lanes")


def _call(function: str, k: Tensor, *tensors: Tensor | None) -> None:
    batch, time, channels = k.shape
    items = batch * -(-channels // _lanes())
    LIBRARY.call(function, k.dtype, (time, channels), items, k.numel() >= PARALLEL_FROM, *tensors)


def _forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, num: Tensor, den: Tensor, top: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # All tensors are contiguous.
    outputs = torch.empty_like(k), torch.empty_like(num), torch.empty_like(den), torch.empty_like(top)
    _call("forward", k, lengths, w, u, k, v, num, den, top, *outputs)
    return outputs


class _CompiledWKV4(torch.autograd.Function):
    """Backward recomputes the memories instead of saving them."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*args)
        outputs = _forward(*args)
        ctx.mark_non_differentiable(outputs[3])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gnum_out: Tensor, gden_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        w, u, k, v, num, den, top, lengths = ctx.saved_tensors
        gradients = gw, gu, gk, gv, gnum, gden = [torch.empty_like(x) for x in (num, num, k, v, num, den)]
        incoming = [x.contiguous() for x in (gy, gnum_out, gden_out)]
        _call("backward", k, lengths, w, u, k, v, num, den, top, *incoming, *gradients)
        return gw.sum(0), gu.sum(0), gk, gv, gnum, gden, None, None


def compiled_wkv4(
    w: Float[Tensor, " C"],
    u: Float[Tensor, " C"],
    k: Float[Tensor, "B T C"],
    v: Float[Tensor, "B T C"],
    memory: WKV4Memory,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T C"], WKV4Memory]:
    """The recurrence on the CPU, in fp32 or fp64 (the same for all tensors); see `WKV4Kernel`.

    Raises ValueError for types, shapes or devices that do not fit.
    """
    num, den, top = memory
    tensors = (w, u, k, v, num, den, top)
    batch, _, channels = k.shape
    LIBRARY.check_tensors(tensors, ((channels,), (channels,), k.shape, k.shape, *[(batch, channels)] * 3), k.dtype)
    lengths = LIBRARY.prepare_lengths(lengths, batch)
    w, u, k, v, num, den, top = (x.contiguous() for x in tensors)
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        y, *after = _CompiledWKV4.apply(w, u, k, v, num, den, top, lengths)  # type: ignore[no-untyped-call]
    else:
        y, *after = _forward(w, u, k, v, num, den, top, lengths)
    return y, WKV4Memory(*after)
