"""Reading files of tensors, without executing them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from prosg.utils.device import dtype_name
from prosg.utils.io import CheckpointError

__all__ = ["read_tensors"]

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a .safetensors file or one of torch.save, mapped copy-on-write if its format allows it.

    Raises:
        CheckpointError: for a damaged file, for objects other than tensors, and for tensors of integers.
    """
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated, or not a safetensors file ({error})") from None
    for name, tensor in tensors.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise CheckpointError(f"{path}: {name} is a {type(tensor).__name__}; only tensors are allowed")
        if tensor.dtype not in FLOATS:
            kinds = ", ".join(dtype_name(dtype) for dtype in FLOATS)
            raise CheckpointError(f"{path}: {name} is {dtype_name(tensor.dtype)}; supported: {kinds}")
    return tensors


def _unpickle(path: Path) -> dict[Any, Any]:
    with path.open("rb") as file:
        start = file.read(2)
    is_zip = zipfile.is_zipfile(path)
    if not start:
        raise CheckpointError(f"{path}: empty")
    if start == b"PK" and not is_zip:
        raise CheckpointError(f"{path}: truncated")
    if not (is_zip or start[0] == 0x80):
        raise CheckpointError(f"{path}: not a PyTorch checkpoint")
    try:
        content = torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except pickle.UnpicklingError:
        damaged = "" if is_zip else ", or is damaged"
        raise CheckpointError(
            f"{path}: contains code or pickled objects other than tensors{damaged}; refused"
        ) from None
    except (RuntimeError, EOFError, LookupError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise CheckpointError(f"{path}: truncated, or not a PyTorch checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; needs a dict of tensors")
    return content
