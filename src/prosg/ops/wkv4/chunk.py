"""RWKV-4's recurrence in plain PyTorch, in parallel over chunks of time, with a hand-written backward pass.

`naive_wkv4` has the equations. T steps are cut into n chunks of c, both about sqrt(T), and a tensor (B, T, C) becomes
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

A pull is a second step after each: one that decays by log_keep and writes the key top_p + log den_p with the value
num_p / den_p, and whose y nobody reads. So a pulled sequence is one of 2 T steps with a decay of their own each.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.ops.wkv4.naive import EMPTY_TOP, WKV4Memory, WKV4Pull, naive_wkv4

__all__ = ["chunked_wkv4"]


class WKV4Chunks(NamedTuple):
    """A sequence cut into n chunks of c steps."""

    k: Tensor
    """(c, B, n, C); -inf where the step is not valid."""
    v: Tensor
    """(c, B, n, C); 0 where the step is not valid."""
    decay: Tensor
    """(c, B or 1, n or 1, C): w; 0 where the step is not valid."""
    until_end: Tensor
    """(c, B or 1, n or 1, C): the sum of w over the steps after this one in its chunk."""
    whole: Tensor
    """(B or 1, n, C): the sum of w over a chunk."""
    invalid: Tensor | None
    """(c, B, n, 1) bool; None if there is none."""


class StepWeights(NamedTuple):
    """The factors of the old memory and of the new token in a step."""

    old: Tensor
    new: Tensor


def _split(x: Tensor, size: int) -> Tensor:
    """(B, T, ...) -> (c, B, n, ...); steps that the last chunk lacks are 0."""
    if missing := -x.shape[1] % size:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], 1)
    cut: Tensor = x.unflatten(1, (-1, size))
    return cut.movedim(2, 0)


def _join(x: Tensor, time: int) -> Tensor:
    """(c, B, n, C) -> (B, T, C)."""
    return x.movedim(0, 2).flatten(1, 2)[:, :time].contiguous()


def _chunks(w: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> WKV4Chunks:
    batch, time, _ = k.shape
    size = math.isqrt(time)
    keys, values = _split(k, size), _split(v, size)
    if lengths is None and time % size == 0:
        if w.dim() == 3:
            decay = _split(w, size)
            past = decay.cumsum(0)
            return WKV4Chunks(keys, values, decay, past[-1] - past, past[-1], None)
        left = torch.arange(size - 1, -1, -1, device=k.device, dtype=k.dtype).view(-1, 1, 1, 1)
        whole = (size * w).expand(1, keys.shape[2], -1)
        return WKV4Chunks(keys, values, w.expand(size, 1, 1, -1), left * w, whole, None)
    valid = torch.arange(time, device=k.device).expand(batch, time) < (
        time if lengths is None else lengths.unsqueeze(1)
    )
    valid = _split(valid, size).unsqueeze(-1)
    decay = (w if w.dim() == 1 else _split(w, size)) * valid
    past = decay.cumsum(0)
    return WKV4Chunks(
        keys.masked_fill(~valid, -math.inf), values.masked_fill(~valid, 0), decay, past[-1] - past, past[-1], ~valid
    )


def _memories(
    decay: Tensor, top_in: Tensor, num_in: Tensor, den_in: Tensor | float, first: WKV4Memory
) -> tuple[WKV4Memory, StepWeights]:
    """s steps, each a decay and a write of (num_in, den_in) e^top_in -> the s + 1 memories between them, s weights."""
    num, den, top = (x.new_empty(len(top_in) + 1, *x.shape) for x in first)
    top[0] = first.top
    for i in range(len(top_in)):
        torch.maximum(top[i] + decay[i], top_in[i], out=top[i + 1])
    old = (top[:-1] + decay).sub_(top[1:]).exp_()
    new = (top_in - top[1:]).exp_()
    for x, x_in, start in ((num, num_in, first.num), (den, den_in, first.den)):
        x[0] = start
        torch.mul(new, x_in, out=x[1:])
        for i in range(len(top_in)):
            x[i + 1].addcmul_(old[i], x[i])
    return WKV4Memory(num, den, top), StepWeights(old, new)


def _between(chunks: WKV4Chunks, first: WKV4Memory) -> tuple[WKV4Memory, Tensor]:
    """The memories between the chunks (n + 1, B, C), and the old memory's weight over each chunk (n, B, C)."""
    reach = chunks.k + chunks.until_end
    # A chunk without a valid step writes nothing: not at top -inf, whose differences are not numbers.
    top = reach.amax(0).clamp_(min=EMPTY_TOP)
    share = reach.sub_(top).exp_()
    den = share.sum(0)
    num = share.mul_(chunks.v).sum(0)
    decay, top, num, den = (x.movedim(1, 0) for x in (chunks.whole, top, num, den))
    between, weights = _memories(decay, top, num, den, first)
    return between, weights.old


def _within(chunks: WKV4Chunks, between: WKV4Memory) -> tuple[WKV4Memory, StepWeights]:
    """The memories before every step, and the weights in those after it; (c, B, n, C) each."""
    starts = WKV4Memory(*(x[:-1].movedim(0, 1) for x in between))
    memories, weights = _memories(chunks.decay, chunks.k, chunks.v, 1.0, starts)
    return WKV4Memory(*(x[:-1] for x in memories)), weights


def _read(u: Tensor, chunks: WKV4Chunks, memory: WKV4Memory) -> tuple[StepWeights, Tensor]:
    """The weights in y, and D; (c, B, n, C) each. D is 1 where the step is not valid."""
    ahead = (memory.top - chunks.k).sub_(u)
    old = ahead.clamp(max=0).exp_()
    new = ahead.clamp_(min=0).neg_().exp_()
    den = torch.addcmul(new, old, memory.den)
    if chunks.invalid is not None:
        den.masked_fill_(chunks.invalid, 1)
    return StepWeights(old, new), den


class _ChunkedWKV4(torch.autograd.Function):
    """Saves the memories between the chunks; backward recomputes those between the steps.

    On a CPU large tensors cost most of their time in allocating memory. So operations work in place, in backward in
    buffers whose contents are no longer needed.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        w, u, k, v, num, den, top, lengths = args
        chunks = _chunks(w, k, v, lengths)
        between, across = _between(chunks, WKV4Memory(num, den, top))
        memory, _ = _within(chunks, between)
        (a, b), divisor = _read(u, chunks, memory)
        y = b.mul_(chunks.v).addcmul_(a, memory.num).div_(divisor)
        if chunks.invalid is not None:
            y.masked_fill_(chunks.invalid, 0)
        y = _join(y, k.shape[1])
        # Copies: a row of a larger tensor would keep all of it.
        after = tuple(x[-1].clone() for x in between)
        ctx.save_for_backward(w, u, k, v, lengths, y, across, *between)
        ctx.mark_non_differentiable(after[2])
        return y, *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gnum: Tensor, gden: Tensor, _top: Tensor) -> tuple[Tensor | None, ...]:
        w, u, k, v, lengths, y, across, *between = ctx.saved_tensors
        time = k.shape[1]
        chunks = _chunks(w, k, v, lengths)
        y, gy = (_split(x, len(chunks.k)) for x in (y, gy))
        memory, (c, d) = _within(chunks, WKV4Memory(*between))
        (a, b), divisor = _read(u, chunks, memory)
        g = torch.div(gy, divisor, out=divisor)
        if chunks.invalid is not None:
            g.masked_fill_(chunks.invalid, 0)
        gv = b.mul_(g)

        # One row more than steps: the last is what comes from behind the chunk.
        into_num, into_den = (g.new_empty(len(g) + 1, *g.shape[1:]) for _ in range(2))
        torch.mul(a, g, out=into_num[:-1])
        torch.mul(into_num[:-1], y, out=into_den[:-1]).neg_()
        firsts = []
        for into, last in ((into_num, gnum), (into_den, gden)):
            carried = into[-2]
            for i in reversed(range(len(c) - 1)):
                carried = torch.addcmul(into[i], c[i], carried)
            starts = [last]
            for j in reversed(range(len(across))):
                starts.append(torch.addcmul(carried[:, j], across[j], starts[-1]))
            torch.stack(starts[-2::-1], 1, out=into[-1])
            for i in reversed(range(len(c))):
                into[i].addcmul_(c[i], into[i + 1])
            firsts.append(starts[-1])
        into_num, into_den = into_num[1:], into_den[1:]

        h = torch.sub(chunks.v, y, out=g).mul_(gv)
        gu = h.sum((0, 1, 2))
        gk = h.addcmul_(d, torch.mul(into_num, chunks.v, out=a).add_(into_den))
        gv.addcmul_(d, into_num)
        gw = into_num.mul_(memory.num).addcmul_(into_den, memory.den).mul_(c)
        if chunks.invalid is not None:
            gw.masked_fill_(chunks.invalid, 0)
        gw = gw.sum((0, 1, 2)) if w.dim() == 1 else _join(gw, time)
        return gw, gu, _join(gk, time), _join(gv, time), *firsts, None, None


def chunked_wkv4(
    w: Float[Tensor, " C"],
    u: Float[Tensor, " C"],
    k: Float[Tensor, "B T C"],
    v: Float[Tensor, "B T C"],
    memory: WKV4Memory,
    lengths: Int[Tensor, " B"] | None = None,
    pull: WKV4Pull | None = None,
) -> tuple[Float[Tensor, "B T C"], WKV4Memory]:
    """The recurrence in parallel over chunks of time; see `WKV4Kernel`."""
    if k.shape[1] == 1:
        # There is nothing to parallelize: the plain step has half of the operations.
        return naive_wkv4(w, u, k, v, memory, lengths, pull)
    if pull is not None:
        den = pull.den.clamp(min=torch.finfo(pull.den.dtype).tiny)
        k = _alternate(k, pull.top.detach() + den.log())
        v = _alternate(v, pull.num / den)
        w = _alternate(w.expand_as(k[:, ::2]), pull.log_keep)
        lengths = None if lengths is None else 2 * lengths
    y, *after = _ChunkedWKV4.apply(w, u, k, v, *memory, lengths)  # type: ignore[no-untyped-call]
    return y if pull is None else y[:, ::2], WKV4Memory(*after)


def _alternate(x: Tensor, constant: Tensor) -> Tensor:
    """(B, T, C), (B, C) -> (B, 2 T, C): after every step one of `constant`."""
    return torch.stack([x, constant.unsqueeze(1).expand_as(x)], 2).flatten(1, 2)
