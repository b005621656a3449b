"""Weights in 8 bits for generating: a quarter of fp32's bytes to read for each token.

    W ~ scale Q    Q int8, to the nearest; scale = max |W| / 127, one per output

Matrices of the blocks and the head are quantised. Embedding, vectors, low ranks, states and updates are not: an update
acts on top of the quantised projection, as exactly as before.
"""

from __future__ import annotations

from torch import nn

from prosg.backbones.layers import Int8Linear, MetaAwareLinear
from prosg.backbones.native import NativeBackbone
from prosg.utils.large_pages import use_large_pages

__all__ = ["QUANTISATIONS", "is_quantised", "quantise", "refuse_quantised"]

QUANTISATIONS = ("none", "int8")
"""What `--quantize` takes."""


def quantise(backbone: nn.Module) -> None:
    """Replaces the matrices of a backbone's blocks and its head by int8, for inference; it cannot be trained or saved.

    All weights then move to large pages of memory, where there are some: see `use_large_pages`.

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
    use_large_pages([*backbone.parameters(), *backbone.buffers()])


def is_quantised(backbone: nn.Module) -> bool:
    """Whether `quantise` has been here."""
    return any(isinstance(module, Int8Linear) for module in backbone.modules())


def refuse_quantised(backbone: nn.Module, what: str) -> None:
    """Raises ValueError for a quantised backbone, naming what cannot be done with it, like "saved"."""
    if is_quantised(backbone):
        raise ValueError(f"a quantised model cannot be {what}; load it without quantize")
