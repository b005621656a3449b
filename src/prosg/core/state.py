"""Rows of a recurrent state: take, join, replace, choose.

A state is a tuple over layers of NamedTuples whose leaves have the batch first, so that one small helper is all that
perturbations in training, forked generation and continuous batching need. A leaf may have an axis that grows with the
text; states of different ages are then put together with zeros in front of the shorter one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
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
    return map_state(lambda *leaves: torch.cat(_aligned(*leaves)), *states)


def replace_rows(state: State, rows: Tensor, new: State) -> State:
    """A copy in which `rows` (N,) are those of `new`, in order."""

    def replace(leaf: Tensor, value: Tensor) -> Tensor:
        leaf, value = _aligned(leaf, value)
        return leaf.index_copy(0, rows, value.to(leaf.dtype))

    return map_state(replace, state, new)


def choose_rows(mask: Tensor, yes: State, no: State) -> State:
    """Row by row `yes` where mask (B,) is true, else `no`."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        a, b = _aligned(a, b)
        return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)

    return map_state(choose, yes, no)


def _aligned(*leaves: Tensor) -> list[Tensor]:
    """Leaves that have grown with their texts (keys and values of attention) as long as the longest: zeros in front."""
    longest = [max(sizes) for sizes in zip(*(leaf.shape[1:] for leaf in leaves), strict=True)]
    missing = ([size - own for size, own in zip(longest, leaf.shape[1:], strict=True)] for leaf in leaves)
    return [
        F.pad(leaf, [side for axis in reversed(axes) for side in (axis, 0)]) if any(axes) else leaf
        for leaf, axes in zip(leaves, missing, strict=True)
    ]


def detach_state(state: State) -> State:
    """The same values without their history."""
    return map_state(torch.Tensor.detach, state)
