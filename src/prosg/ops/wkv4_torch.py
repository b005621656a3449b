"""RWKV-4's recurrence in plain PyTorch, in parallel over chunks of time, with a backward written by hand.

`wkv4_scan` has the equations. T steps are cut into n chunks of c, both about sqrt(T), and a tensor (B, T, C) becomes
(c, B, n, C): a step of all chunks at once. With key -inf and decay 0 for steps that are not valid:

    1. what each chunk writes into an empty memory, from how far its steps are from its end (no loop):
           top_j = max_i (k_i + r_i w),  num_j = sum_i e^(k_i + r_i w - top_j) v_i,  den_j the same without v
    2. n steps over the chunks, each one decay by (valid steps) w and one write: the memories between the chunks
    3. c steps from those, in all chunks at once: the memories between the steps; then every y (no loop)

Steps 2 and 3 are the same recurrence, and so is backward: with (a, b) the weights of old and new in y = N / D, (c, d)
those in the memory after the step, and G the gradient of the memory after a step, at fixed tops,

    g = dL/dy / D;    G_num = a g + c G_num;    G_den = -a g y + c G_den          (from the end to the beginning)
    h = g (v - y) b;     dk = h + d (G_num v + G_den);    dv = b g + d G_num
    du = sum h;          dw = sum c (G_num num + G_den den)

is linear in G: once within each chunk from 0, once over the chunks, once more within from what comes from behind.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.ops.wkv4_scan import EMPTY_TOP, Memory, wkv4_scan

__all__ = ["wkv4_torch"]


class Chunks(NamedTuple):
    """A sequence cut into chunks."""

    k: Tensor
    """(c, B, n, C); -inf where the step is not valid."""
    v: Tensor
    """(c, B, n, C); 0 where the step is not valid."""
    decay: Tensor
    """(c, B or 1, n or 1, C): w; 0 where the step is not valid."""
    left: Tensor
    """(c, B or 1, n or 1, 1): valid steps after this one in its chunk."""
    steps: Tensor
    """(B or 1, n, 1): valid steps in a chunk."""
    invalid: Tensor | None
    """(c, B, n, 1) bool; None if there is none."""


class Weights(NamedTuple):
    """What the old memory and the new token are multiplied by in a step."""

    old: Tensor
    new: Tensor


class Forward(NamedTuple):
    """Everything between the inputs and y."""

    after: Memory
    """(B, C) each: the last memory."""
    across: Tensor
    """(n, B, C): the old memory's weight over a whole chunk."""
    memory: Memory
    """(c, B, n, C) each: the memory before every step."""
    step: Weights
    """(c, B, n, C) each: in the memory after the step."""
    read: Weights
    """(c, B, n, C) each: in y."""
    den: Tensor
    """(c, B, n, C): D."""
    y: Tensor
    """(c, B, n, C); finite, but without meaning, where the step is not valid."""


def _split(x: Tensor, size: int) -> Tensor:
    """(B, T, ...) -> (c, B, n, ...); steps that the last chunk lacks are 0."""
    if missing := -x.shape[1] % size:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1)
    cut: Tensor = x.unflatten(1, (-1, size))
    return cut.movedim(2, 0)


def _join(x: Tensor, time: int) -> Tensor:
    """(c, B, n, C) -> (B, T, C)."""
    return x.movedim(0, 2).flatten(1, 2)[:, :time].contiguous()


def _chunks(w: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> Chunks:
    batch, time, _ = k.shape
    size = math.isqrt(time)
    keys, values = _split(k, size), _split(v, size)
    if lengths is None and time % size == 0:
        left = torch.arange(size - 1, -1, -1, device=k.device, dtype=k.dtype).view(-1, 1, 1, 1)
        steps = torch.full((1, keys.shape[2], 1), float(size), device=k.device, dtype=k.dtype)
        return Chunks(keys, values, w.expand(size, 1, 1, -1), left, steps, None)
    valid = torch.arange(time, device=k.device).expand(batch, time) < (
        time if lengths is None else lengths.unsqueeze(1)
    )
    valid = _split(valid, size).unsqueeze(-1)
    past = valid.cumsum(0)
    return Chunks(
        keys.masked_fill(~valid, -math.inf),
        values.masked_fill(~valid, 0),
        w * valid,
        (past[-1] - past).to(k.dtype),
        past[-1].to(k.dtype),
        ~valid,
    )


def _linear(factor: Tensor, term: Tensor, first: Tensor) -> Tensor:
    """x_0 = first, x_{i+1} = factor_i x_i + term_i -> every x: (s, ...) -> (s + 1, ...)."""
    out = first.new_empty(len(term) + 1, *first.shape)
    out[0] = first
    for i in range(len(term)):
        torch.addcmul(term[i], factor[i], out[i], out=out[i + 1])
    return out


def _linear_back(factor: Tensor, term: Tensor, last: Tensor) -> Tensor:
    """x_s = last, x_i = factor_i x_{i+1} + term_i -> every x: (s, ...) -> (s + 1, ...)."""
    out = last.new_empty(len(term) + 1, *last.shape)
    out[-1] = last
    for i in reversed(range(len(term))):
        torch.addcmul(term[i], factor[i], out[i + 1], out=out[i])
    return out


def _memories(
    decay: Tensor, top_in: Tensor, num_in: Tensor, den_in: Tensor | None, first: Memory
) -> tuple[Memory, Weights]:
    """s steps, each a decay and a write of (num_in, den_in) e^top_in; den_in None is 1.

    -> the s + 1 memories between the steps, the s weights.
    """
    top = first.top.new_empty(len(top_in) + 1, *first.top.shape)
    top[0] = first.top
    for i in range(len(top_in)):
        torch.maximum(top[i] + decay[i], top_in[i], out=top[i + 1])
    old = (top[:-1] + decay).sub_(top[1:]).exp_()
    new = (top_in - top[1:]).exp_()
    num = _linear(old, new * num_in, first.num)
    den = _linear(old, new if den_in is None else new * den_in, first.den)
    return Memory(num, den, top), Weights(old, new)


def _forward(w: Tensor, u: Tensor, chunks: Chunks, first: Memory) -> Forward:
    k, v = chunks.k, chunks.v
    reach = torch.addcmul(k, chunks.left, w)
    # A chunk without a valid step writes nothing: not at top -inf, whose differences are not numbers.
    top = reach.amax(0).clamp_(min=EMPTY_TOP)
    share = reach.sub_(top).exp_()
    writes = ((share * v).sum(0), share.sum(0))
    num, den = (x.movedim(1, 0) for x in writes)
    between, across = _memories((chunks.steps * w).movedim(1, 0), top.movedim(1, 0), num, den, first)

    starts = Memory(*(x[:-1].movedim(0, 1) for x in between))
    memories, step = _memories(chunks.decay, k, v, None, starts)
    before = Memory(*(x[:-1] for x in memories))

    key = k + u
    q = torch.maximum(before.top, key)
    read = Weights((before.top - q).exp_(), key.sub_(q).exp_())
    den = torch.addcmul(read.new, read.old, before.den)
    if chunks.invalid is not None:
        den.masked_fill_(chunks.invalid, 1)
    y = (read.new * v).addcmul_(read.old, before.num).div_(den)
    return Forward(Memory(*(x[-1] for x in between)), across.old, before, step, read, den, y)


class _Recurrence(torch.autograd.Function):
    """The forward above; backward runs it once more instead of keeping what lies in between."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        w, u, k, v, num, den, top, lengths = args
        ctx.save_for_backward(*args)
        chunks = _chunks(w, k, v, lengths)
        result = _forward(w, u, chunks, Memory(num, den, top))
        y = result.y if chunks.invalid is None else result.y.masked_fill_(chunks.invalid, 0)
        # The last memories are rows of larger tensors, which would be kept as long as they are.
        after = tuple(x.clone() for x in result.after)
        ctx.mark_non_differentiable(after[2])
        return _join(y, k.shape[1]), *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gnum: Tensor, gden: Tensor, _top: Tensor) -> tuple[Tensor | None, ...]:
        w, u, k, v, num, den, top, lengths = ctx.saved_tensors
        time = k.shape[1]
        chunks = _chunks(w, k, v, lengths)
        _, across, before, (c, d), (a, b), divisor, y = _forward(w, u, chunks, Memory(num, den, top))
        g = _split(gy, math.isqrt(time)) / divisor
        if chunks.invalid is not None:
            g.masked_fill_(chunks.invalid, 0)

        terms = a * g, (a * g).mul_(y).neg_()
        behind = []
        for term, last in zip(terms, (gnum, gden), strict=True):
            within = _linear_back(c, term, torch.zeros_like(term[0]))[0]
            starts = _linear_back(across, within.movedim(1, 0), last)
            behind.append((_linear_back(c, term, starts[1:].movedim(0, 1))[1:], starts[0]))
        (into_num, first_num), (into_den, first_den) = behind

        gv = b * g
        h = (chunks.v - y).mul_(gv)
        gu = h.sum((0, 1, 2))
        gk = h.addcmul_(d, (into_num * chunks.v).add_(into_den))
        gv = gv.addcmul_(d, into_num)
        gw = (into_num * before.num).addcmul_(into_den, before.den).mul_(c)
        if chunks.invalid is not None:
            gw.masked_fill_(chunks.invalid, 0)
        return gw.sum((0, 1, 2)), gu, _join(gk, time), _join(gv, time), first_num, first_den, None, None


def wkv4_torch(
    w: Float[Tensor, " C"],
    u: Float[Tensor, " C"],
    k: Float[Tensor, "B T C"],
    v: Float[Tensor, "B T C"],
    memory: Memory,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T C"], Memory]:
    """The recurrence in parallel over chunks of time, on any device and in any floating-point type; see `wkv4`."""
    if k.shape[1] == 1:
        # Nothing to be parallel over: the plain step has half of the operations.
        return wkv4_scan(w, u, k, v, memory, lengths)
    y, *after = _Recurrence.apply(w, u, k, v, *memory, lengths)  # type: ignore[no-untyped-call]
    return y, Memory(*after)
