"""What a step in one call reads and writes: states, whose addresses are known from the step before, and buffers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prosg.backbones.fused import UnsuitableError
from prosg.core.state import State

__all__ = ["BlocksOutput", "Buffers", "StepState", "leaf_addresses", "leaf_tensors", "state_addresses"]


class StepState(tuple[Any, ...]):
    """A state that the library wrote, and where its tensors lie; a copy of it is a plain tuple.

    Attributes:
        shapes: Those of each layer's tensors.
        addresses: Of each layer's tensors.
    """

    shapes: Sequence[tuple[int, ...]]
    addresses: Sequence[Sequence[int]]

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return tuple, (tuple(self),)


class BlocksOutput(NamedTuple):
    """What all blocks return."""

    x: Tensor
    """(B, 1, E) the residual stream after the last"""
    state: StepState
    inputs: Tensor | None
    """(L, B, 1, E) `Taps.inputs` of each block, where they are wanted"""
    memory: Tensor | None
    """(L, B, 1, I) `Taps.memory`"""


class Buffers:
    """What a step writes beside the state: the residual stream, and the taps where they are wanted.

    Args:
        x: The residual stream (B, 1, E) before the step.
        blocks: Number of blocks.
        size: Width I of the recurrence.
        tapped: Whether taps are wanted.
    """

    def __init__(self, x: Tensor, blocks: int, size: int, tapped: bool) -> None:
        self._x = x
        self.out = torch.empty_like(x)
        self.inputs = x.new_empty((blocks, *x.shape)) if tapped else None
        self.memory = x.new_empty((blocks, x.shape[0], 1, size), dtype=torch.float32) if tapped else None

    @property
    def addresses(self) -> list[int | None]:
        """The first pointers of a step, in the order of `block.c`."""
        taps = [None if tap is None else tap.data_ptr() for tap in (self.inputs, self.memory)]
        return [self._x.data_ptr(), self.out.data_ptr(), *taps]

    def output(self, state: StepState) -> BlocksOutput:
        """What the blocks have returned, with the state after them."""
        return BlocksOutput(self.out, state, self.inputs, self.memory)


def leaf_tensors(x: Tensor, count: int, shape: Sequence[int]) -> tuple[tuple[Tensor, ...], range]:
    """Returns so many uninitialised fp32 tensors on the device of x, one behind the other, and where each lies."""
    whole = x.new_empty((count, *shape), dtype=torch.float32)
    size = 4 * math.prod(shape)
    return whole.unbind(), range(begin := whole.data_ptr(), begin + count * size, size)


def state_addresses(state: State, shapes: Sequence[tuple[int, ...]]) -> Sequence[Sequence[int]]:
    """Where the tensors of each layer lie. Raises UnsuitableError unless they are contiguous fp32 of these shapes."""
    if isinstance(state, StepState) and state.shapes == shapes:
        return state.addresses
    return [leaf_addresses(layer, shapes) for layer in state]


def leaf_addresses(leaves: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Where tensors lie. Raises UnsuitableError unless they are contiguous fp32 of these shapes."""
    for leaf, shape in zip(leaves, shapes, strict=True):
        if leaf.dtype != torch.float32 or leaf.shape != shape or not (leaf.is_contiguous() and leaf.is_cpu):
            raise UnsuitableError
    return [leaf.data_ptr() for leaf in leaves]
