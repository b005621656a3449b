"""Weights on their way from a file into a model: looked through and cast one tensor at a time.

A file is mapped, so what is resident of it is the system's to take back; what is cast is not. So a tensor is let go of
as soon as it has been cast, and a cast that cannot fit is refused before it begins.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from prosg.utils.device import dtype_name
from prosg.utils.io import CheckpointError

__all__ = ["check_finite", "check_room", "checked_and_cast"]

PART = 1 << 26
"""Values that are looked through at once."""
PAGE_OUT = 21
"""Linux's MADV_PAGEOUT: take these pages back now. It loses nothing, whatever they are."""


def checked_and_cast(
    path: str | Path, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """`tensors` in these types; one that has its type already stays what it is, a mapped one mapped.

    Raises CheckpointError, naming file and tensor, for values that are not finite; for more than there is memory for.
    """
    check_room(path, tensors, dtypes)
    cast: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        check_finite(path, {name: tensor})
        cast[name] = tensor.to(dtypes[name])
        if cast[name] is not tensor:
            _let_go(tensor)
    return cast


def check_finite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """CheckpointError for the first tensor with a NaN or an infinite value. A value is read once, nothing is kept."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.is_meta or tensor.numel() == 0:
            continue
        for part in tensor.detach().reshape(-1).split(PART):
            low, high = torch.aminmax(part)  # a NaN anywhere comes out as both; ten times as fast as isfinite
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                wrong = int((~torch.isfinite(tensor)).sum())
                raise CheckpointError(
                    f"{path}: {name} has {wrong} of {tensor.numel()} values that are NaN or infinite; the file is "
                    "damaged, or its training had diverged"
                )


def check_room(path: str | Path, tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> None:
    """CheckpointError where casting to these types takes more memory than there is, saying what does not."""
    free = _available()
    made = sum(t.numel() * dtypes[name].itemsize for name, t in tensors.items() if t.dtype != dtypes[name])
    if free is None or made <= free:
        return
    kinds = ", ".join(sorted({dtype_name(tensor.dtype) for tensor in tensors.values()}))
    wanted = dtype_name(max(dtypes.values(), key=lambda dtype: dtype.itemsize))
    narrow = sum(2 * tensor.numel() for tensor in tensors.values())
    raise CheckpointError(
        f"{path}: is {kinds} and takes {made / 1e9:.1f} GB as {wanted}, but {free / 1e9:.1f} GB of memory are free"
        + (f"; as bf16 (--dtype bf16) it takes {narrow / 1e9:.1f} GB" if narrow < made else "")
    )


def _available() -> int | None:
    """Bytes of memory that could be had, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _let_go(tensor: Tensor) -> None:
    """Have the system take back the pages of a mapped tensor that will not be read again; elsewhere nothing happens."""
    size, page = tensor.nbytes, mmap.PAGESIZE
    if not tensor.is_contiguous() or size < 64 * page:
        return
    first = -(-tensor.data_ptr() // page) * page
    pages = (tensor.data_ptr() + size - first) // page
    try:
        advise = ctypes.CDLL(None).madvise
    except (AttributeError, TypeError, OSError):
        return
    advise(ctypes.c_void_p(first), ctypes.c_size_t(pages * page), PAGE_OUT)  # a refusal does no harm
