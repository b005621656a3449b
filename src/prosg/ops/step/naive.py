"""What backbones compute between their projections, in PyTorch: the oracle of the compiled step, for any length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from prosg.core.tensors import last_valid
from prosg.core.update import LowRank, add_delta

__all__ = [
    "FASTEST",
    "RWKV7Vectors",
    "Replacement",
    "Shifted",
    "naive_add_deltas",
    "naive_finish",
    "naive_replacement",
    "naive_shift_mix",
    "shift_tokens",
]

FASTEST = math.exp(-0.5)
"""RWKV-7's fastest decay: at least e^-FASTEST = .545 of the memory is kept per token."""


class Shifted(NamedTuple):
    """What a block reads of the residual stream."""

    stream: Tensor
    """(B, T, E) the residual stream, with what was added to it"""
    seen: Tensor
    """(B, T, E) the stream after the norm"""
    mixed: Sequence[Tensor]
    """each (B, T, E): mixes of every token with its predecessor"""
    last: Tensor
    """(B, E) the last valid token of `seen`, the next call's predecessor"""


def shift_tokens(x: Float[Tensor, "B T E"], previous: Float[Tensor, "B E"]) -> Float[Tensor, "B T E"]:
    """Returns the predecessor of each position (token shift): x moved by one step, with `previous` in front."""
    return torch.cat([previous.to(x.dtype).unsqueeze(1), x[:, :-1]], dim=1)


def naive_shift_mix(
    stream: Float[Tensor, "B T E"],
    added: Float[Tensor, "B T E"] | None,
    norm: nn.Module,
    previous: Float[Tensor, "B E"],
    mixes: Sequence[Float[Tensor, "1 1 E"]],
    backwards: bool,
    lengths: Int[Tensor, " B"] | None = None,
) -> Shifted:
    """Adds to the residual stream, normalises it, and mixes every token with its predecessor.

    Args:
        stream: The residual stream x.
        added: What a block returned, to be added to it; None for nothing.
        norm: The layer norm.
        previous: The token before the first, after the norm.
        mixes: Shares mu.
        backwards: mu is the share of the predecessor (RWKV-7), not of the token (RWKV-4).
        lengths: Valid tokens of each row; None for all.
    """
    if added is not None:
        stream = stream + added
    seen: Tensor = norm(stream)
    before = shift_tokens(seen, previous)
    mixed = [torch.lerp(seen, before, mu) if backwards else torch.lerp(before, seen, mu) for mu in mixes]
    return Shifted(stream, seen, mixed, last_valid(seen, lengths, previous).to(previous.dtype))


def naive_add_deltas(
    outputs: Sequence[Float[Tensor, "B T O"]],
    inputs: Sequence[Float[Tensor, "B T I"]],
    deltas: Sequence[LowRank | None],
    active: Float[Tensor, "B T 1"] | None = None,
) -> list[Float[Tensor, "B T O"]]:
    """Turns outputs y = W x of projections into (W + dW) x, y + b (a x) (eq. 8-12); see `add_delta`."""
    return [
        y if delta is None else add_delta(y, x, delta, active)
        for y, x, delta in zip(outputs, inputs, deltas, strict=True)
    ]


class RWKV7Vectors(NamedTuple):
    """RWKV-7's vectors in a layer."""

    w0: Tensor
    """(1, 1, C) of the decay"""
    a0: Tensor
    """(1, 1, C) of the in-context learning rate"""
    v0: Tensor | None
    """(1, 1, C) of the first layer's value; None in the first layer"""
    k_k: Tensor
    """(1, 1, C) scales the key whose direction is replaced"""
    k_a: Tensor
    """(1, 1, C) how much the rate changes the key"""


class Replacement(NamedTuple):
    """What RWKV-7's recurrence takes of a token, each (B, T, H, N) in the state's type; see `WKV7Kernel`."""

    r: Tensor
    w: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    """-kk, what is removed"""
    b: Tensor
    """kk times the rate, where it is written anew"""


def naive_replacement(
    r: Float[Tensor, "B T C"],
    k: Float[Tensor, "B T C"],
    v: Float[Tensor, "B T C"],
    w: Float[Tensor, "B T C"],
    a: Float[Tensor, "B T C"],
    mix: Float[Tensor, "B T C"] | None,
    first: Float[Tensor, "B T C"] | None,
    vectors: RWKV7Vectors,
    heads: int,
    wide: torch.dtype,
) -> Replacement:
    """Computes what RWKV-7's recurrence takes, from the projections.

    Args:
        r, k, v: Receptance, key and value.
        w, a, mix: Of the decay, the rate and the share of the first layer's value, before their sigmoids.
        first: The first layer's value; None, as `mix`, in that layer.
        vectors: Of the layer.
        heads: H.
        wide: The state's type.
    """

    def split(z: Tensor) -> Tensor:
        return z.to(wide).view(*z.shape[:2], heads, -1)

    rate = torch.sigmoid(vectors.a0 + a)
    if first is not None:
        assert mix is not None and vectors.v0 is not None
        v = v + (first - v) * torch.sigmoid(vectors.v0 + mix)
    w = -FASTEST * torch.sigmoid(vectors.w0.to(wide) + w.to(wide))
    kk = F.normalize(split(k * vectors.k_k), dim=-1)
    k = k * (1 + (rate - 1) * vectors.k_a)
    return Replacement(split(r), split(w), split(k), split(v), -kk, kk * split(rate))


def naive_finish(
    y: Float[Tensor, "B T H N"],
    read: Replacement,
    r_k: Float[Tensor, "H N"],
    norm: nn.GroupNorm,
    gate: Float[Tensor, "B T C"],
) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T C"]]:
    """Group norm of what RWKV-7's recurrence returned, plus the bonus, gated: `Taps.memory`, and the gated one.

    Args:
        y: What the recurrence returned.
        read: What it took.
        r_k: Weights of the bonus (r . k r_k) v.
        norm: The group norm, a group per head.
        gate: g.

    Returns:
        The tap in the state's type, and the input of the output projection in the gate's.
    """
    wide, heads = y.dtype, y.shape[2]
    normed = F.group_norm(y.flatten(0, 1).flatten(1), heads, norm.weight.to(wide), norm.bias.to(wide), norm.eps)
    bonus = (read.r * read.k * r_k.to(wide)).sum(-1, keepdim=True) * read.v
    tap = (normed.view_as(y) + bonus).flatten(2)
    return tap, tap.to(gate.dtype) * gate
