"""Checking and casting weights between a file and a model, one tensor at a time, so that large models fit in memory.

Pages of a mapped file can be taken back by the system, those of a cast tensor cannot. So the pages of each tensor are
released as soon as it is cast, and a cast for which there is not enough memory is refused before it begins.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from prosg.core.checks import GREATEST
from prosg.utils.allocation import available_memory
from prosg.utils.device import dtype_name
from prosg.utils.io import CheckpointError

__all__ = ["cast_checked", "check_finite", "check_memory"]

CHUNK = 1 << 26
"""Values checked at once."""
MADV_PAGEOUT = 21
"""Linux's advice to take pages back now. No content is lost, whatever they are."""


def cast_checked(
    path: str | Path, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """Casts the tensors of a file, after checking that their values are finite and that there is enough memory.

    Args:
        path: The file, for errors.
        tensors: By name.
        dtypes: The type of each. A tensor that has it already is returned itself, a mapped one still mapped.

    Raises:
        CheckpointError: see `check_finite` and `check_memory`.
    """
    check_memory(path, tensors, dtypes, available_memory())
    cast: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        check_finite(path, {name: tensor}, min(GREATEST, torch.finfo(dtypes[name]).max))
        cast[name] = tensor.to(dtypes[name])
        if cast[name] is not tensor:
            _release_pages(tensor)
    return cast


def check_finite(path: str | Path, tensors: Mapping[str, Tensor], most: float = math.inf, chunk: int = CHUNK) -> None:
    """Raises CheckpointError for the first tensor with NaN or infinite values, naming it. Reads each value once.

    most: Greatest value, and least but for its sign, that is allowed.
    chunk: Number of values checked at once.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.is_meta or tensor.numel() == 0:
            continue
        for part in tensor.detach().reshape(-1).split(chunk):
            low, high = torch.aminmax(part)  # both are NaN if any value is; ten times as fast as isfinite
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                wrong = int((~torch.isfinite(tensor)).sum())
                raise CheckpointError(
                    f"{path}: {name} has {wrong} of {tensor.numel()} values that are NaN or infinite; the file is "
                    "damaged, or its training had diverged"
                )
            if (greatest := max(-float(low), float(high))) > most:
                cure = "load it as bf16 or fp32" if most < GREATEST else "its training had diverged"
                raise CheckpointError(f"{path}: {name} has values up to {greatest:.3g}, beyond {most:.5g}; {cure}")


def check_memory(
    path: str | Path, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype], available: int | None
) -> None:
    """Raises CheckpointError if casting takes more than `available` bytes, suggesting a type that takes fewer.

    available: None if it is unknown; then nothing is checked.
    """
    needed = sum(t.numel() * dtypes[name].itemsize for name, t in tensors.items() if t.dtype != dtypes[name])
    if available is None or needed <= available:
        return
    kinds = ", ".join(sorted({dtype_name(tensor.dtype) for tensor in tensors.values()}))
    wanted = dtype_name(max(dtypes.values(), key=lambda dtype: dtype.itemsize))
    narrow = sum(2 * tensor.numel() for tensor in tensors.values())
    raise CheckpointError(
        f"{path}: is {kinds} and takes {needed / 1e9:.1f} GB as {wanted}, but {available / 1e9:.1f} GB are free"
        + (f"; as bf16 (--dtype bf16) it takes {narrow / 1e9:.1f} GB" if narrow < needed else "")
    )


def _release_pages(tensor: Tensor) -> None:
    """Has Linux take back the pages of a mapped tensor that is not read again. Does nothing on other systems."""
    size, page = tensor.nbytes, mmap.PAGESIZE
    if not tensor.is_contiguous() or size < 64 * page:
        return
    first = -(-tensor.data_ptr() // page) * page
    pages = (tensor.data_ptr() + size - first) // page
    try:
        advise = ctypes.CDLL(None).madvise
    except (AttributeError, TypeError, OSError):
        return
    advise(ctypes.c_void_p(first), ctypes.c_size_t(pages * page), MADV_PAGEOUT)  # may fail, without harm
