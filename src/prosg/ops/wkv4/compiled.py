"""RWKV-4's recurrence by the compiled library (`wkv4.c`), forward and backward."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.ops.library import CompiledLibrary
from prosg.ops.wkv4.naive import WKV4Memory, WKV4Pull

__all__ = ["LIBRARY", "compiled_wkv4"]

LIBRARY = CompiledLibrary("wkv4", abi=2, sizes=2, pointers={"forward": 16, "backward": 24})

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


def _forward(lengths: Tensor | None, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # All tensors are contiguous: w, u, k, v, the memory, and a pull or four times None.
    _, _, k, _, num, den, top, *_ = inputs
    assert k is not None and num is not None and den is not None and top is not None
    outputs = torch.empty_like(k), torch.empty_like(num), torch.empty_like(den), torch.empty_like(top)
    _call("forward", k, lengths, *inputs, *outputs)
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
        lengths, *inputs = ctx.saved_tensors
        _, _, k, v, num, den, _, *pull = inputs
        gradients = [torch.empty_like(x) for x in (num, num, k, v, num, den)]
        into_pull = [None if pull[0] is None else torch.empty_like(num) for _ in range(3)]
        incoming = [x.contiguous() for x in (gy, gnum_out, gden_out)]
        _call("backward", k, lengths, *inputs, *incoming, *gradients, *into_pull)
        gw, gu, *others = gradients
        return None, gw.sum(0), gu.sum(0), *others, None, *into_pull[:2], None, into_pull[2]


def compiled_wkv4(
    w: Float[Tensor, " C"],
    u: Float[Tensor, " C"],
    k: Float[Tensor, "B T C"],
    v: Float[Tensor, "B T C"],
    memory: WKV4Memory,
    lengths: Int[Tensor, " B"] | None = None,
    pull: WKV4Pull | None = None,
) -> tuple[Float[Tensor, "B T C"], WKV4Memory]:
    """The recurrence on the CPU, in fp32 or fp64 (the same for all tensors); see `WKV4Kernel`.

    Raises ValueError for types, shapes or devices that do not fit.
    """
    tensors = (w, u, k, v, *memory, *(pull or ()))
    batch, _, channels = k.shape
    rows = [(batch, channels)] * (len(tensors) - 4)
    LIBRARY.check_tensors(tensors, ((channels,), (channels,), k.shape, k.shape, *rows), k.dtype)
    lengths = LIBRARY.prepare_lengths(lengths, batch)
    inputs = [*(x.contiguous() for x in tensors), *([None] * 4 if pull is None else [])]
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        y, *after = _CompiledWKV4.apply(lengths, *inputs)  # type: ignore[no-untyped-call]
    else:
        y, *after = _forward(lengths, *inputs)
    return y, WKV4Memory(*after)
