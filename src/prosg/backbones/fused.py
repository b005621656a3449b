"""All blocks for one token of each row in one call: what `ops.block` takes, gathered from modules, updates and states.

Gathering takes longer than what a small model computes, so addresses are kept from step to step. Those of weights are
compared with the model before every call: a weight that was replaced, moved or cast, a projection that was wrapped,
and a hook are seen at once; values that were changed in place lie where they lay. Those of a `PreparedUpdate`, and of
a state that a step wrote, belong to that very object, which has the same tensors as long as it lives. A model with a
block that is not plain (wrapped by PEFT, hooked) runs in its ordinary form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter, is_
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from prosg.backbones.layers import Int8Linear, MetaAwareLinear
from prosg.core.update import LowRank, PreparedUpdate, Site, Update
from prosg.ops.block import address_array

__all__ = ["BlockTable", "Factors", "UnsuitableError", "Weights", "weights_of"]

Address = int | None
SITES = 4
"""Projections of a block that an update may act on, in `block.c`."""
NORMS = (nn.LayerNorm, nn.GroupNorm)
PLAIN = (Tensor, nn.Parameter)
_dtype, _eps = attrgetter("dtype"), attrgetter("eps")


class UnsuitableError(Exception):
    """The blocks cannot be run in one call."""


class BlockTable(NamedTuple):
    """What the library reads of a block, by path, in the order of `block.c`."""

    block: type[nn.Module]
    """the class of a block"""
    vectors: tuple[str, ...]
    """parameters"""
    wide: frozenset[str]
    """those of the vectors that are fp32 whatever the activations are"""
    matrices: tuple[str, ...]
    """projections; the first ones are the sites"""
    later: frozenset[str] = frozenset()
    """those of the vectors that the first block does not have"""


def _layout(tensors: Sequence[Tensor]) -> list[Any]:
    """Where tensors lie, and their types."""
    return [*map(Tensor.data_ptr, tensors), *map(_dtype, tensors)]


class Factors:
    """Where an update's factors lie: for each site of each block a, b, the rank, and 1 where rows share b.

    Args:
        update: The update, laid out as `prepare_update` does.
        sites: Names of the sites, in the order of `block.c`.
        blocks: Number of blocks.
        dtype: Type of the activations.

    Raises:
        UnsuitableError: for factors of another type or layout.
    """

    def __init__(self, update: Update, sites: Sequence[str], blocks: int, dtype: torch.dtype) -> None:
        found: list[Address] = []
        self.batch = next(iter(update.values())).a.shape[0]
        for site in (Site(block, name) for block in range(blocks) for name in sites):
            delta = update.get(site)
            found += [None] * 4 if delta is None else self._of(delta, dtype)
        self.addresses = address_array(found)

    @staticmethod
    def _of(delta: LowRank, dtype: torch.dtype) -> list[Address]:
        a, b = delta
        if a.dtype != dtype or b.dtype != dtype or not (a.is_contiguous() and b.mT.is_contiguous() and a.is_cpu):
            raise UnsuitableError
        return [a.data_ptr(), b.data_ptr(), a.shape[1], int(b.dim() == 2)]


class Weights:
    """Where the weights of a model's blocks lie.

    Args:
        backbone: The model; its blocks are in `backbone.blocks`.
        table: What the library reads.
        dtype: Type of the activations.

    Attributes:
        blocks: Number of blocks.
        addresses: What the library reads.
        eps: Of the norms of each class.

    Raises:
        UnsuitableError: for a block that is not plain: of another class, with a wrapped or hooked module, or with
            weights of other types.
    """

    def __init__(self, backbone: nn.Module, table: BlockTable, dtype: torch.dtype) -> None:
        self.dtype, self.table = dtype, table
        # Where modules and parameters were found, and what was: dictionary, name, value.
        self._holders: list[Mapping[str, Any]] = []
        self._names: list[str] = []
        self._values: list[Any] = []
        self._modules: list[nn.Module] = []
        self._hooks: list[Mapping[int, Any]] = []
        self._tensors: list[Tensor] = []
        self._shapes: dict[str, torch.Size] = {}
        self._factors: WeakKeyDictionary[PreparedUpdate, Factors] = WeakKeyDictionary()
        self._list = blocks = self._value(backbone._modules, "blocks")
        self.blocks = len(blocks)
        found: list[Address] = []
        for index, name in enumerate(blocks._modules):
            block = self._module(blocks, name)
            if type(block) is not table.block:
                raise UnsuitableError
            found += self._block(block, table, frozenset() if index else table.later)
        self._classes = [*map(type, self._modules)]
        self._norms = [module for module in self._modules if isinstance(module, NORMS)]
        self._eps = [*map(_eps, self._norms)]
        self.eps = dict(zip(map(type, self._norms), self._eps, strict=True))
        if any(self.eps[type(norm)] != eps for norm, eps in zip(self._norms, self._eps, strict=True)):
            raise UnsuitableError
        self._found = _layout(self._tensors)
        self.addresses = address_array(found)

    @property
    def are_current(self) -> bool:
        """Whether every module is the one it was, and plain, and every weight lies where it lay."""
        return (
            len(self._list._modules) == self.blocks
            and all(map(is_, map(dict.get, self._holders, self._names), self._values))  # type: ignore[arg-type]
            and all(map(is_, map(type, self._modules), self._classes))
            and not any(self._hooks)
            and self._eps == [*map(_eps, self._norms)]
            and self._found == _layout(self._tensors)
        )

    def shape(self, path: str) -> torch.Size:
        """Of a weight, in every block; of none elements where no block has it."""
        return self._shapes.get(path, torch.Size((0, 0)))

    def kept_factors(self, update: Update, batch: int) -> Factors | None:
        """Returns where the factors of an update of so many rows lie, if `find_factors` was asked for it before."""
        if not isinstance(update, PreparedUpdate):
            return None
        factors = self._factors.get(update)
        return factors if factors is not None and factors.batch == batch else None

    def find_factors(self, update: Update) -> Factors:
        """Finds where the factors of an update lie; it has to fit the model. Those of a `PreparedUpdate` are kept.

        Raises:
            UnsuitableError: see `Factors`.
        """
        sites = [path.rpartition(".")[2] for path in self.table.matrices[:SITES]]
        factors = Factors(update, sites, self.blocks, self.dtype)
        if isinstance(update, PreparedUpdate):
            self._factors[update] = factors
        return factors

    def _block(self, block: nn.Module, table: BlockTable, missing: frozenset[str]) -> list[Address]:
        modules: dict[str, nn.Module] = {"": block}

        def module(path: str) -> nn.Module:
            if path not in modules:
                parent, _, name = path.rpartition(".")
                modules[path] = self._module(module(parent), name)
            return modules[path]

        found: list[Address] = []
        for path in table.vectors:
            holder, _, name = path.rpartition(".")
            vector = self._value(module(holder)._parameters, name)
            if vector is None and path in missing:
                found.append(None)
            else:
                found.append(self._tensor(path, vector, torch.float32 if path in table.wide else self.dtype))
        for path in table.matrices:
            layer = module(path)
            weight = self._value(layer._parameters, "weight")
            if type(layer) is Int8Linear:
                scale = self._value(layer._buffers, "scale")
                found += [self._tensor(path, weight, torch.int8), self._tensor(f"{path}.scale", scale, torch.float32)]
            elif type(layer) is MetaAwareLinear and self._value(layer._parameters, "bias") is None:
                found += [self._tensor(path, weight, self.dtype), None]
            else:
                raise UnsuitableError
        return found

    def _value(self, holder: Mapping[str, Any], name: str) -> Any:
        value = holder.get(name)
        self._holders.append(holder)
        self._names.append(name)
        self._values.append(value)
        return value

    def _module(self, parent: nn.Module, name: str) -> nn.Module:
        module: nn.Module | None = self._value(parent._modules, name)
        if module is None or self._value(module.__dict__, "forward") is not None:
            raise UnsuitableError
        if isinstance(module, NORMS) and type(module) not in NORMS:
            raise UnsuitableError
        hooks = [module._forward_hooks, module._forward_pre_hooks]
        if any(hooks):
            raise UnsuitableError
        self._modules.append(module)
        self._hooks += hooks
        return module

    def _tensor(self, path: str, tensor: Tensor | None, dtype: torch.dtype) -> int:
        if (
            tensor is None
            or type(tensor) not in PLAIN
            or tensor.dtype != dtype
            or not (tensor.is_contiguous() and tensor.is_cpu)
        ):
            raise UnsuitableError
        if self._shapes.setdefault(path, tensor.shape) != tensor.shape:
            raise UnsuitableError
        self._tensors.append(tensor)
        return tensor.data_ptr()


_WEIGHTS: WeakKeyDictionary[nn.Module, Weights] = WeakKeyDictionary()


def weights_of(backbone: nn.Module, table: BlockTable, dtype: torch.dtype) -> Weights:
    """Returns where a model's weights lie, found anew only where that has changed; see `Weights`."""
    weights = _WEIGHTS.get(backbone)
    if weights is None or weights.dtype != dtype or not weights.are_current:
        _WEIGHTS.pop(backbone, None)
        weights = _WEIGHTS[backbone] = Weights(backbone, table, dtype)
    return weights
