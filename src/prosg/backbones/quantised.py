"""Weights in 8 bits for generating: a quarter of fp32's bytes to read for each token.

    W ~ scale Q    Q int8, to the nearest; scale = max |W| / 127, one per output

Matrices of the blocks and the head are quantised. Embedding, vectors, low ranks, states and updates are not: an update
acts on top of the quantised projection, as exactly as before.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from prosg.backbones.layers import MetaAwareLinear
from prosg.backbones.native import NativeBackbone
from prosg.ops.linear import linear

__all__ = ["QUANTISATIONS", "Int8Linear", "is_quantised", "quantise", "quantise_matrix"]

QUANTISATIONS = ("none", "int8")
"""What `--quantize` takes."""


def quantise_matrix(weight: Float[Tensor, "O I"]) -> tuple[Int8[Tensor, "O I"], Float[Tensor, " O"]]:
    """Returns Q and the scale of each output, fp32; an output of zeros has scale 0."""
    wide = weight.float()
    scale = wide.abs().amax(1) / 127
    return torch.round(wide / scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(1)).to(torch.int8), scale


class Int8Linear(nn.Module):
    """y = (x Q^T) scale, for inference; the sums are fp32.

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


def quantise(backbone: nn.Module) -> None:
    """Replaces the matrices of a backbone's blocks and its head by int8, for inference; it cannot be trained or saved.

    Raises:
        ValueError: for a backbone that transformers runs, and one that is quantised.
    """
    if not isinstance(backbone, NativeBackbone):
        raise ValueError("int8 is for RWKV-4, RWKV-7 and RetNet; a model that transformers runs is quantised by it")
    if is_quantised(backbone):
        raise ValueError("the model is quantised already")
    for path, module in list(backbone.named_modules()):
        if isinstance(module, MetaAwareLinear):
            parent, _, name = path.rpartition(".")
            setattr(backbone.get_submodule(parent), name, Int8Linear(module))


def is_quantised(backbone: nn.Module) -> bool:
    """Whether `quantise` has been here."""
    return any(isinstance(module, Int8Linear) for module in backbone.modules())
