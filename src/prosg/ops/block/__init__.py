"""All blocks of a backbone for one token of each row, in one call of a compiled library: `block.c`.

What they compute is written in the backbones, whose blocks are the oracle. A backbone gathers what `block.c` lists.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from prosg.ops.library import ACTIVATIONS, CompiledLibrary
from prosg.ops.linear.compiled import LIBRARY as LINEAR
from prosg.ops.step.compiled import LIBRARY as STEP
from prosg.ops.wkv4.compiled import LIBRARY as WKV4
from prosg.ops.wkv7.compiled import LIBRARY as WKV7

__all__ = ["LIBRARY", "Addresses", "address_array", "can_run_blocks", "run_blocks"]

Addresses = ctypes.Array[ctypes.c_void_p]
SIZES = 8
LIBRARY = CompiledLibrary("block", abi=2, sizes=SIZES, pointers={"rwkv4": 3, "rwkv7": 3}, types=ACTIVATIONS)


NARROW = 512
"""Width up to which blocks are one call whatever the threads: its matrices are too small to be shared out."""
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
    """Whether blocks may be one call: a token of each row on the CPU, no gradients; one thread, or a narrow model.

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


def address_array(addresses: Sequence[int | None]) -> Addresses:
    """Returns addresses as the library reads them; None where there is nothing."""
    return (ctypes.c_void_p * len(addresses))(*addresses)


def run_blocks(
    name: str,
    dtype: torch.dtype,
    sizes: Sequence[int],
    blocks: int,
    weights: Addresses,
    update: Addresses | None,
    step: Sequence[int | None],
) -> None:
    """Runs all blocks.

    Args:
        name: "rwkv4" or "rwkv7".
        dtype: Type of the activations.
        sizes: The rows and what `block.c` names after them.
        blocks: How many there are.
        weights: Where their weights are, in the order of `block.c`.
        update: Where the update's factors are, and their ranks; None without one.
        step: Where is what the step reads and writes.

    Raises:
        MemoryError: where there was no memory for the working space.
    """
    function = LIBRARY.function(name, dtype)
    if function(*sizes, *[0] * (SIZES - len(sizes)), 0, blocks, weights, update, address_array(step)):
        raise MemoryError("block: no memory for the working space")
