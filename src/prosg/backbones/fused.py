"""Blocks of one token in one call: what `ops.block` takes, gathered from modules, states and updates.

Gathering is what is left of a decoding step's Python, so it goes the short way: modules' dictionaries, bare addresses.
A projection that is no plain layer (wrapped by PEFT, hooked) leaves the block to its ordinary form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from prosg.backbones.layers import MetaAwareLinear
from prosg.backbones.quantised import Int8Linear
from prosg.core.update import LowRank

__all__ = ["UnsuitableError", "addresses", "factors", "matrices", "update_shape", "vectors"]

Address = int | None


class UnsuitableError(Exception):
    """The block cannot be run in one call."""


def addresses(tensors: Iterable[Tensor]) -> list[Address]:
    """Where contiguous fp32 tensors lie. Raises UnsuitableError for others."""
    found: list[Address] = []
    for tensor in tensors:
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise UnsuitableError
        found.append(tensor.data_ptr())
    return found


def vectors(parameters: Mapping[str, Tensor | None], names: Sequence[str], dtype: torch.dtype) -> list[Address]:
    """Where parameters of this type lie; None for a name that there is not. Raises UnsuitableError for others."""
    found: list[Address] = []
    for name in names:
        tensor = parameters.get(name)
        if tensor is None:
            found.append(None)
            continue
        if tensor.dtype != dtype or not tensor.is_contiguous():
            raise UnsuitableError
        found.append(tensor.data_ptr())
    return found


def update_shape(deltas: Mapping[str, LowRank], sites: int) -> tuple[int, int]:
    """The rank of a layer's update, and 1 where rows share b. Raises UnsuitableError where sites differ in them."""
    if not deltas:
        return 0, 0
    shapes = {(delta.a.shape[1], int(delta.b.dim() == 2)) for delta in deltas.values()}
    if len(shapes) > 1 or len(deltas) > sites:
        raise UnsuitableError
    return shapes.pop()


def factors(delta: LowRank | None, dtype: torch.dtype) -> tuple[Address, Address]:
    """Where a site's factors lie, as `prepare_update` lays them out. Raises UnsuitableError for others."""
    if delta is None:
        return None, None
    a, b = delta
    if a.dtype != dtype or b.dtype != dtype or not (a.is_contiguous() and b.mT.is_contiguous()):
        raise UnsuitableError
    return a.data_ptr(), b.data_ptr()


def matrices(
    module: nn.Module, names: Sequence[str], deltas: Mapping[str, LowRank], dtype: torch.dtype
) -> list[Address]:
    """Of each projection: its matrix, the scale of int8, and its update. Raises UnsuitableError for no plain layers."""
    found: list[Address] = []
    for name in names:
        layer = module._modules[name]
        scale = None
        if type(layer) is Int8Linear:
            weight, scale = layer._parameters["weight"], layer._buffers["scale"]
        elif type(layer) is MetaAwareLinear:
            weight = layer._parameters["weight"]
        else:
            raise UnsuitableError
        assert weight is not None
        plain = weight.is_contiguous() and not (layer._forward_hooks or layer._forward_pre_hooks)
        if not plain or (weight.dtype != dtype if scale is None else scale.dtype != torch.float32):
            raise UnsuitableError
        found += (weight.data_ptr(), None if scale is None else scale.data_ptr(), *factors(deltas.get(name), dtype))
    return found
