"""Devices and number types by the names used in options and configuration files."""

from __future__ import annotations

import torch

from prosg.utils.spelling import meant

__all__ = ["dtype_name", "parse_device", "parse_dtype", "resolve_device"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the name of a type as in config.json: "float32", "bfloat16", ..."""
    return str(dtype).removeprefix("torch.")


def parse_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """Returns the type named by --dtype; None for None, and a type itself. Raises ValueError for any other."""
    if name is None:
        return None
    if isinstance(name, torch.dtype):
        if name not in DTYPES.values():
            raise ValueError(f"--dtype is {name}; allowed: {', '.join(DTYPES)}")
        return name
    if name not in DTYPES:
        raise ValueError(f"--dtype is {name!r}{meant(name, DTYPES)}; allowed: {', '.join(DTYPES)}")
    return DTYPES[name]


def parse_device(device: torch.device | str) -> torch.device:
    """Returns a device; "auto" is CUDA if there is one. Raises ValueError for what PyTorch does not know or have."""
    if device in ("auto", "cuda"):
        return torch.device(resolve_device(str(device)))
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device is {device!r}; allowed: auto, cpu, cuda, or any other of torch.device") from None


def resolve_device(name: str) -> str:
    """Returns "cpu" or "cuda" for the value of --device: "auto", "cpu" or "cuda".

    "auto" is CUDA if there is a device. Raises ValueError for other names, and for "cuda" without a device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device is {name!r}, allowed: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is 'cuda', but PyTorch finds no CUDA device here; use --device cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
