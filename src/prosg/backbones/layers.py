"""Layers, and operations on sequences and memories, that backbones are built of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from prosg.core.state import Anchor, State
from prosg.ops.linear import linear
from prosg.ops.pull import Pull, pull_memory

__all__ = [
    "Int8Linear",
    "MetaAwareEmbedding",
    "MetaAwareLinear",
    "add_memories",
    "anchor_to_memories",
    "plain_matrix",
    "pull_memories",
    "quantise_matrix",
]


class MetaAwareLinear(nn.Linear):
    """nn.Linear that is fast for few rows, and skips drawing initial weights on the meta device, as that takes seconds.

    For few rows and without gradients, as in decoding, the matrix is read once at the memory's speed.
    """

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        y = linear(input, self.weight)
        return y if self.bias is None else y + self.bias


class MetaAwareEmbedding(nn.Embedding):
    """nn.Embedding that skips drawing initial weights on the meta device."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


def quantise_matrix(weight: Float[Tensor, "O I"]) -> tuple[Int8[Tensor, "O I"], Float[Tensor, " O"]]:
    """Returns Q and the scale of each output, fp32; an output of zeros has scale 0."""
    wide = weight.float()
    scale = wide.abs().amax(1) / 127
    return torch.round(wide / scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)).to(torch.int8), scale


class Int8Linear(nn.Module):
    """y = (x Q^T) scale, for inference; the sums are fp32. See `prosg.backbones.quantised`.

    Args:
        layer: The layer that it stands for, without a bias.
    """

    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        assert getattr(layer, "bias", None) is None
        self.out_features: int = layer.out_features
        self.in_features: int = layer.in_features
        weight, scale = quantise_matrix(layer.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.scale)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, int8"


def plain_matrix(layer: nn.Module) -> Tensor | None:
    """Returns W of a layer that is y = x W^T and nothing else, so that the product may be computed outside of it.

    Returns:
        None for a layer with a bias or a hook, and one that is wrapped (PEFT), quantised or sharded.
    """
    if type(layer) not in (nn.Linear, MetaAwareLinear) or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    weight = layer._parameters["weight"]
    return weight if layer._parameters["bias"] is None and type(weight) is nn.Parameter else None


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
