"""What backbones compute between their projections, for one token of each row, by the compiled library (`step.c`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prosg.core.update import LowRank
from prosg.ops.library import ACTIVATIONS, CompiledLibrary, bits
from prosg.ops.step.naive import Replacement, RWKV7Vectors, Shifted

__all__ = [
    "LIBRARY",
    "compiled_add_deltas",
    "compiled_finish",
    "compiled_replacement",
    "compiled_shift_mix",
    "fits_deltas",
]

LIBRARY = CompiledLibrary(
    "step", abi=1, sizes=5, pointers=dict.fromkeys(("shift_mix", "low_rank", "replace", "finish"), 0), types=ACTIVATIONS
)
SITES = 3
"""Projections that one call changes."""
PARALLEL_FROM = 1 << 20
"""Numbers of an update from which on several threads are used."""


def _in_type(dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    """The tensors, contiguous and in this type, as the library reads them; most are so already."""
    return [
        tensor if tensor.dtype == dtype and tensor.is_contiguous() else tensor.to(dtype).contiguous()
        for tensor in tensors
    ]


def compiled_shift_mix(
    stream: Tensor, added: Tensor | None, norm: nn.LayerNorm, previous: Tensor, mixes: Sequence[Tensor], backwards: bool
) -> Shifted:
    """`naive_shift_mix` for T = 1."""
    batch, _, width = stream.shape
    dtype = stream.dtype
    LIBRARY.check_tensors([previous], [(batch, width)], torch.float32)
    (stream, *mixes), (weight, bias) = _in_type(dtype, stream, *mixes), _in_type(dtype, norm.weight, norm.bias)
    if added is not None:
        (added,) = _in_type(dtype, added)
    LIBRARY.check_tensors((weight, bias, *mixes), ((width,), (width,), *[(1, 1, width)] * len(mixes)), dtype)
    total = stream if added is None else torch.empty_like(stream)
    seen = torch.empty_like(stream)
    mixed = torch.empty(len(mixes), batch, 1, width, dtype=dtype)
    last = torch.empty(batch, width)
    LIBRARY.call(
        "shift_mix",
        dtype,
        (batch, width, len(mixes), int(backwards), bits(norm.eps)),
        batch,
        False,
        *(stream, added, weight, bias, previous.contiguous(), total, seen, mixed, last, *mixes),
    )
    return Shifted(total, seen, mixed.unbind(0), last)


def fits_deltas(outputs: Sequence[Tensor], deltas: Sequence[LowRank | None]) -> bool:
    """Whether an update is laid out for decoding; see `prosg.core.update.prepare_update`."""
    dtype = outputs[0].dtype
    return len(outputs) <= SITES and all(
        delta is None
        or (
            delta.a.dtype == delta.b.dtype == y.dtype == dtype
            and delta.a.is_contiguous()
            and delta.b.mT.is_contiguous()
            and y.is_contiguous()
        )
        for y, delta in zip(outputs, deltas, strict=True)
    )


def compiled_add_deltas(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], deltas: Sequence[LowRank | None]
) -> list[Tensor]:
    """`naive_add_deltas` for T = 1, added to `outputs` in place; for deltas that `fits_deltas`."""
    batch, dtype = inputs[0].shape[0], outputs[0].dtype
    by_shape: dict[tuple[int, ...], list[Tensor]] = {}
    for y, x, delta in zip(outputs, _in_type(dtype, *inputs), deltas, strict=True):
        if delta is not None:
            rank, inp = delta.a.shape[1:]
            shape = (rank, inp, y.shape[-1], int(delta.b.dim() == 2))
            shapes = ((batch, 1, inp), (batch, rank, inp), (*delta.b.shape[:-2], shape[2], rank))
            LIBRARY.check_tensors((x, delta.a, delta.b), shapes, dtype)
            by_shape.setdefault(shape, []).extend((x, delta.a, delta.b, y))
    for sizes, tensors in by_shape.items():
        parallel = batch * sizes[0] * (sizes[1] + sizes[2]) >= PARALLEL_FROM
        LIBRARY.call("low_rank", dtype, (*sizes, len(tensors) // 4), batch, parallel, *tensors)
    return list(outputs)


def compiled_replacement(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    a: Tensor,
    mix: Tensor | None,
    first: Tensor | None,
    vectors: RWKV7Vectors,
    heads: int,
) -> Replacement:
    """`naive_replacement` for T = 1, in fp32."""
    batch, _, size = r.shape
    dtype = r.dtype
    activations = [r, k, v, w, a, *([] if first is None else [mix, first])]
    LIBRARY.check_tensors(activations, [(batch, 1, size)] * len(activations), dtype)  # type: ignore[arg-type]
    r, k, v, w, a = _in_type(dtype, r, k, v, w, a)
    (w0,), (a0, k_k, k_a) = _in_type(torch.float32, vectors.w0), _in_type(dtype, vectors.a0, vectors.k_k, vectors.k_a)
    v0 = None
    if first is not None:
        assert mix is not None and vectors.v0 is not None
        mix, first, v0 = _in_type(dtype, mix, first, vectors.v0)
    taken = torch.empty(6, batch, 1, heads, size // heads).unbind(0)
    LIBRARY.call(
        "replace",
        dtype,
        (heads, size // heads, 0, 0, 0),
        batch,
        False,
        *(r, k, v, w, a, mix, first, w0, a0, v0, k_k, k_a, *taken),
    )
    return Replacement(*taken)


def compiled_finish(
    y: Tensor, read: Replacement, r_k: Tensor, norm: nn.GroupNorm, gate: Tensor
) -> tuple[Tensor, Tensor]:
    """`naive_finish` for T = 1, of fp32."""
    batch, _, heads, size = y.shape
    dtype = gate.dtype
    LIBRARY.check_tensors((y, *read[:4]), [y.shape] * 5, torch.float32)
    r_k, weight, bias, gate = _in_type(dtype, r_k, norm.weight, norm.bias, gate)
    tap, out = torch.empty(batch, 1, heads * size), torch.empty_like(gate)
    LIBRARY.call(
        "finish",
        dtype,
        (heads, size, bits(norm.eps), 0, 0),
        batch,
        False,
        *(y.contiguous(), read.r, read.k, read.v, r_k, weight, bias, gate, tap, out),
    )
    return tap, out
