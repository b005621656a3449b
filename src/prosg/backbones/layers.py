"""Layers, and operations on sequences and memories, that backbones are built of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prosg.core.state import Anchor, State
from prosg.ops.pull import Pull, pull_memory

__all__ = [
    "MetaAwareEmbedding",
    "MetaAwareLinear",
    "add_memories",
    "anchor_to_memories",
    "last_valid",
    "pull_memories",
    "shift_tokens",
]


class MetaAwareLinear(nn.Linear):
    """nn.Linear that skips drawing initial weights on the meta device, where that takes seconds for nothing."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class MetaAwareEmbedding(nn.Embedding):
    """nn.Embedding that skips drawing initial weights on the meta device."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


def shift_tokens(x: Float[Tensor, "B T E"], previous: Float[Tensor, "B E"]) -> Float[Tensor, "B T E"]:
    """Returns the predecessor of each position (token shift): x moved by one step, with `previous` in front."""
    return torch.cat([previous.to(x.dtype).unsqueeze(1), x[:, :-1]], dim=1)


def last_valid(
    x: Float[Tensor, "B T E"], previous: Float[Tensor, "B E"], lengths: Int[Tensor, " B"] | None
) -> Float[Tensor, "B E"]:
    """Returns x at each row's last valid position; `previous` in rows without one."""
    if lengths is None:
        return x[:, -1]
    index = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, x.shape[-1])
    last = x.gather(1, index).squeeze(1)
    return torch.where((lengths > 0).unsqueeze(1), last, previous.to(x.dtype))


def add_memories(state: State, other: State, keep: Tensor, weight: Tensor) -> State:
    """Returns S <- keep S + S_other in rows whose weight is not 0: `load` of memories that are plain sums.

    Nothing is normalised: the size of a state is its weight.

    Args:
        state: Layers with a tensor `memory` (B, ...).
        other: The same of other text.
        keep: (B,)
        weight: (B,); only whether it is 0 matters.
    """

    def per_row(x: Tensor, memory: Tensor) -> Tensor:
        return x.to(memory.dtype).view(-1, *[1] * (memory.dim() - 1))

    return tuple(
        layer._replace(
            memory=per_row(keep, layer.memory) * layer.memory + per_row(weight != 0, layer.memory) * other_layer.memory
        )
        for layer, other_layer in zip(state, other, strict=True)
    )


def anchor_to_memories(target: State, log_keep: Sequence[Tensor], share: Sequence[Tensor]) -> Anchor:
    """Returns the pull of each layer with a tensor `memory` (B, U, ...): `Backbone.make_anchor` of such memories."""

    def pull(memory: Tensor, keep: Tensor, added: Tensor) -> Pull:
        rows, units = memory.shape[:2]
        added = added.to(memory.dtype).view(-1, units, *[1] * (memory.dim() - 2))
        return Pull(added * memory, keep.to(memory.dtype).expand(rows, units).contiguous())

    return tuple(pull(layer.memory, keep, added) for layer, keep, added in zip(target, log_keep, share, strict=True))


def pull_memories(state: State, anchor: Anchor) -> State:
    """Returns a state whose layers have a tensor `memory`, after one pull: `Backbone.anchor` of such memories."""
    return tuple(
        layer._replace(memory=pull_memory(layer.memory, pull)) for layer, pull in zip(state, anchor, strict=True)
    )
