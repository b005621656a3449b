"""Rows of a recurrent state: take, join, replace, choose.

A state is a tuple over layers of NamedTuples whose leaves have the batch first, so that one small helper is all that
perturbations in training, forked generation and continuous batching need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["State", "choose_rows", "detach_state", "join_states", "map_state", "replace_rows", "take_rows"]

State = tuple[Any, ...]
"""Per layer one NamedTuple of tensors (B, ...)."""


def map_state(fn: Callable[..., Tensor], *states: State) -> State:
    """Apply `fn` leaf by leaf to states of the same kind."""
    return tuple(
        type(layers[0])(*(fn(*leaves) for leaves in zip(*layers, strict=True))) for layers in zip(*states, strict=True)
    )


def take_rows(state: State, rows: Tensor) -> State:
    """Rows of a state, by index (N,)."""
    return map_state(lambda leaf: leaf[rows], state)


def join_states(states: Sequence[State]) -> State:
    """One batch out of several."""
    return map_state(lambda *leaves: torch.cat(leaves), *states)


def replace_rows(state: State, rows: Tensor, new: State) -> State:
    """A copy in which `rows` (N,) are those of `new`, in order."""
    return map_state(lambda leaf, value: leaf.index_copy(0, rows, value.to(leaf.dtype)), state, new)


def choose_rows(mask: Tensor, yes: State, no: State) -> State:
    """Row by row `yes` where mask (B,) is true, else `no`."""
    return map_state(lambda a, b: torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b), yes, no)


def detach_state(state: State) -> State:
    """The same values without their history."""
    return map_state(torch.Tensor.detach, state)
