"""Products of few rows with a matrix by the compiled library (`linear.c`)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor

from prosg.ops.library import ACTIVATIONS, CompiledLibrary

__all__ = ["LIBRARY", "compiled_linear", "most_rows"]

LIBRARY = CompiledLibrary(
    "linear",
    abi=1,
    sizes=4,
    pointers={"rows": 4},
    types={**ACTIVATIONS, torch.int8: "i8"},
)

PARALLEL_FROM = 1 << 19
"""Elements of the matrix from which on several threads are used."""
ROWS, ROWS_ON_TILES = 64, 128
"""Rows up to which the library is at least as fast as PyTorch's product; the second for bf16 on matrix units."""

_item = 0


def most_rows(dtype: torch.dtype) -> int:
    """Returns up to how many rows the library is the faster one, for a matrix of this type; 0 where it cannot run."""
    if isinstance(LIBRARY.loaded, str) or dtype not in LIBRARY.types:
        return 0
    return ROWS_ON_TILES if dtype == torch.bfloat16 and LIBRARY.description() == "amx" else ROWS


def compiled_linear(
    x: Float[Tensor, "*rows I"], weight: Num[Tensor, "O I"], scale: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "*rows O"]:
    """The product on the CPU, without gradients; see `LinearKernel`.

    In fp32 and int8 a row's result does not depend on the other rows.

    Raises ValueError for types, shapes or devices that do not fit.
    """
    global _item
    _item = _item or LIBRARY.constant("item")
    (outputs, inputs), dtype = weight.shape, x.dtype
    matrix = weight.dtype
    narrow = dtype == torch.bfloat16
    fits = (narrow or dtype == torch.float32) if matrix == torch.int8 else dtype == matrix
    if not fits or x.shape[-1] != inputs or not (x.is_cpu and weight.is_cpu and weight.is_contiguous()):
        raise ValueError(
            f"linear: {dtype} {tuple(x.shape)} on {x.device} does not fit {matrix} {tuple(weight.shape)} on "
            f"{weight.device}"
        )
    if (scale is None) == (matrix == torch.int8) or (scale is not None and scale.shape != (outputs,)):
        raise ValueError(f"linear: a matrix of int8, and no other, has one factor per output; {matrix}")
    x = x.contiguous()
    y = torch.empty(*x.shape[:-1], outputs, dtype=dtype)
    items = -(-outputs // _item)
    sizes = (x.numel() // inputs, inputs, outputs, int(narrow))
    LIBRARY.call("rows", matrix, sizes, items, weight.numel() >= PARALLEL_FROM, x, weight, scale, y)
    return y
