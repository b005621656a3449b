"""The recurrent state, and operations on its rows: take, join, replace, choose, bound, limit.

Perturbations in training, forked generation and continuous batching are built of these operations alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Anchor",
    "State",
    "bound_state",
    "choose_rows",
    "detach_state",
    "join_states",
    "limit_memory",
    "map_state",
    "memory_limit",
    "memory_norms",
    "no_pull",
    "pulling_rows",
    "replace_rows",
    "take_rows",
    "write_rows",
]

State = tuple[Any, ...]
"""What a recurrent model keeps of the tokens read so far: one NamedTuple of tensors (B, ...) per layer.

Each kind of layer has a NamedTuple of its own, e.g. `RWKV4Layer(att_shift, ffn_shift, num, den, top)`. The functions
here know only that the batch comes first. A tensor may have an axis that grows with the text (keys and values of
attention); where rows of different length meet, the shorter ones are padded with zeros in front.
"""
Anchor = State
"""What pulls a state's memory back after every token: per layer a NamedTuple of what is added and how much is kept.

It has rows as a state has them, so the functions here take, join and replace its rows, too. Made by
`Backbone.make_anchor`, it is `WKV4Pull` for RWKV-4, `Pull` for memories that are one tensor.
"""


LARGEST = 40
"""Memories are kept below two to this power, 1.1e12: their squares, which norms add up, are far from fp32's largest."""
GROWTH = 8.0
"""How much larger than a prompt left it a memory may grow, where it is limited. In answers of 50 tokens, on which
models were trained, memories grow fourfold."""


def map_state(fn: Callable[..., Tensor], *states: State) -> State:
    """Applies `fn` tensor by tensor to one or more states of the same model."""
    return tuple(
        type(layers[0])(*(fn(*leaves) for leaves in zip(*layers, strict=True))) for layers in zip(*states, strict=True)
    )


def take_rows(state: State, rows: Tensor) -> State:
    """Returns the rows at the indices `rows` (N,)."""
    return map_state(lambda leaf: leaf[rows], state)


def join_states(states: Sequence[State]) -> State:
    """Concatenates the rows of several states."""
    return map_state(lambda *leaves: torch.cat(_padded_in_front(*leaves)), *states)


def no_pull(anchor: Anchor, rows: int) -> Anchor:
    """Returns an anchor of so many rows, of the same kind as `anchor`, that leaves a memory as it is."""
    return map_state(lambda leaf: leaf.new_zeros(rows, *leaf.shape[1:]), anchor)


def pulling_rows(anchor: Anchor) -> Tensor:
    """Returns in which rows (B,) an anchor changes a memory at all."""
    leaves = [leaf for layer in anchor for leaf in layer]
    return torch.stack([(leaf != 0).unsqueeze(1).flatten(1).any(1) for leaf in leaves]).any(0)


def replace_rows(state: State, rows: Tensor, new: State) -> State:
    """Returns a copy in which the row at index `rows[i]` is row i of `new`, cast to the type of `state`."""

    def replace(leaf: Tensor, value: Tensor) -> Tensor:
        leaf, value = _padded_in_front(leaf, value)
        return leaf.index_copy(0, rows, value.to(leaf.dtype))

    return map_state(replace, state, new)


def write_rows(state: State, rows: slice, new: State) -> State:
    """Writes the rows of `new` into the rows `rows` of `state`, in place; a tensor that is too short is made anew.

    Returns:
        The state with the rows.
    """

    def write(leaf: Tensor, value: Tensor) -> Tensor:
        leaf, value = _padded_in_front(leaf, value)
        leaf[rows] = value
        return leaf

    return map_state(write, state, new)


def choose_rows(mask: Tensor, yes: State, no: State) -> State:
    """Returns for each row that of `yes` where `mask` (B,) is true, else that of `no`."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        a, b = _padded_in_front(a, b)
        return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)

    return map_state(choose, yes, no)


def bound_state(state: State) -> State:
    """Keeps memories from outgrowing their type: what is 2^40 or larger is divided by a power of two.

    A memory that the model multiplies with matrices can grow without end where these are not normal (RWKV-7's
    transitions), and what is read of it is normalised, so that its size alone does not count. Nothing changes below
    2^40, and no bit of a mantissa above: only what is written from there on weighs more. Each unit (B, H, ...) of a
    memory has a power of its own. What is infinite or no number stays so.

    Returns:
        The state itself where nothing is as large.
    """
    extremes = [leaf.aminmax() for layer in state for leaf in layer if leaf.ndim > 2 and leaf.numel()]
    if all(float(least) > -(2.0**LARGEST) and float(most) < 2.0**LARGEST for least, most in extremes):
        return state

    def bound(leaf: Tensor) -> Tensor:
        if leaf.ndim <= 2 or not leaf.numel():
            return leaf
        largest = leaf.abs().flatten(2).amax(2)
        excess = (torch.frexp(largest).exponent - LARGEST).clamp(min=0) * largest.isfinite()
        return torch.ldexp(leaf, -excess.view(*excess.shape, *[1] * (leaf.ndim - 2)))

    return map_state(bound, state)


def _unit_norms(memory: Tensor) -> Tensor:
    """The norm (B, H) of each unit of a memory (B, H, ...)."""
    norms: Tensor = memory.flatten(2).norm(dim=2)
    return norms


def memory_norms(state: State) -> Tensor:
    """Returns (B, L) the largest norm of a memory's unit (a head) in each layer; every layer has a memory."""
    layers = ([_unit_norms(leaf).amax(1) for leaf in layer if leaf.ndim > 2] for layer in state)
    return torch.stack([torch.stack(norms).amax(0) for norms in layers], 1)


def memory_limit(state: State) -> Tensor:
    """Returns what `limit_memory` takes (B, L) for memories that grow from here on: `GROWTH` times their norms."""
    return GROWTH * memory_norms(state)


def limit_memory(state: State, limit: Tensor, rows: Tensor | None = None) -> None:
    """Shrinks memories that have outgrown a limit, in place.

    A memory that the model multiplies with matrices can grow although nothing is written (RWKV-7's), until what a token
    writes counts for nothing beside it. Normalisation makes what is read of it independent of its size, so it can be
    shrunk: every unit (a head) whose norm exceeds the limit is scaled to it, its direction unchanged (as state
    normalisation in Chen et al., arXiv 2410.07145).

    Args:
        state: Memories are its tensors of more than two axes, (B, H, ...).
        limit: (B, L) largest norm in each row and layer; 0 for none.
        rows: Indices of the rows to look at; all by default.
    """
    chosen = slice(None) if rows is None else rows
    limit = limit[chosen]
    limit = torch.where(limit > 0, limit, torch.inf)
    for number, layer in enumerate(state):
        for leaf in layer:
            if leaf.ndim <= 2:
                continue
            part = leaf[chosen]
            factor = (limit[:, number, None].to(part.dtype) / _unit_norms(part)).clamp(max=1.0)
            if bool((factor < 1).any()):
                leaf[chosen] = part * factor.view(*factor.shape, *[1] * (leaf.ndim - 2))


def detach_state(state: State) -> State:
    """Returns the same values, detached from the autograd graph."""
    return map_state(torch.Tensor.detach, state)


def _padded_in_front(*leaves: Tensor) -> list[Tensor]:
    """Pads every axis but the first with zeros in front, up to the longest of the tensors."""
    longest = [max(sizes) for sizes in zip(*(leaf.shape[1:] for leaf in leaves), strict=True)]
    missing = ([size - length for size, length in zip(longest, leaf.shape[1:], strict=True)] for leaf in leaves)
    return [
        F.pad(leaf, [side for axis in reversed(axes) for side in (axis, 0)]) if any(axes) else leaf
        for leaf, axes in zip(leaves, missing, strict=True)
    ]
