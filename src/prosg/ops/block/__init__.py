"""Whole blocks for one token of each row, in one call of a compiled library: `block.c`.

What they compute is written in the backbones, whose blocks are the oracle. A block gathers what `block.c` lists.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from prosg.ops.library import ACTIVATIONS, CFunction, CompiledLibrary
from prosg.ops.linear.compiled import LIBRARY as LINEAR
from prosg.ops.step.compiled import LIBRARY as STEP
from prosg.ops.wkv4.compiled import LIBRARY as WKV4
from prosg.ops.wkv7.compiled import LIBRARY as WKV7

__all__ = ["LIBRARY", "can_run_blocks", "run_block"]

SIZES = 10
LIBRARY = CompiledLibrary("block", abi=1, sizes=SIZES, pointers={"rwkv4": 0, "rwkv7": 0}, types=ACTIVATIONS)


NARROW = 512
"""Width up to which a block is one call whatever the threads: its matrices are too small to be shared out."""
PARTS = {library.name: library for library in (LINEAR, STEP, WKV4, WKV7)}
"""The libraries whose functions it calls."""


@cache
def _is_built() -> bool:
    """Whether it and its parts are there; then it knows where they are."""
    if isinstance(LIBRARY.loaded, str):
        return False
    name_of = LIBRARY.loaded["prosg_block_part"]
    name_of.restype = ctypes.c_char_p
    found: list[int | None] = []
    while (name := name_of(len(found))) is not None:
        library = PARTS[name.decode().split("_")[1]].loaded
        if isinstance(library, str):
            return False
        found.append(ctypes.cast(library[name.decode()], ctypes.c_void_p).value)
    LIBRARY.loaded["prosg_block_use"]((ctypes.c_void_p * len(found))(*found))
    return True


def can_run_blocks(x: Tensor, state: torch.dtype) -> bool:
    """Whether a block may be one call: a token of each row on the CPU, no gradients; one thread, or a narrow model.

    The call has one thread. Where there are more, wide matrices are better spread over them, each in a call of its own.

    Args:
        x: The residual stream (B, T, E).
        state: Type of the recurrent state.
    """
    return (
        x.shape[1] == 1
        and not torch.is_grad_enabled()
        and x.dtype in ACTIVATIONS
        and state == torch.float32
        and x.is_cpu
        and (x.shape[2] <= NARROW or torch.get_num_threads() == 1)
        and not torch.is_autocast_enabled("cpu")
        and type(x) is Tensor
        and _is_built()
    )


def run_block(name: str, dtype: torch.dtype, sizes: Sequence[int], pointers: Sequence[int | None]) -> None:
    """Runs a block.

    Args:
        name: "rwkv4" or "rwkv7".
        dtype: Type of the activations.
        sizes: The rows and what `block.c` names after them.
        pointers: To contiguous tensors, in the order of `block.c`; None where there is none.

    Raises:
        MemoryError: where there was no memory for the working space.
    """
    function = _function(name, dtype)
    array = (ctypes.c_void_p * len(pointers))(*pointers)
    if function(*sizes, *[0] * (SIZES - len(sizes)), 0, sizes[0], array):
        raise MemoryError("block: no memory for the working space")


@cache
def _function(name: str, dtype: torch.dtype) -> CFunction:
    return LIBRARY.function(name, dtype)
