"""Devices and number types by the names that users give them."""

from __future__ import annotations

import torch

__all__ = ["check_device", "dtype_name", "dtype_named"]


def dtype_name(dtype: torch.dtype) -> str:
    """As configs call it: "float32", "bfloat16", ..."""
    return str(dtype).removeprefix("torch.")


def dtype_named(name: str | None) -> torch.dtype | None:
    """What --dtype means, a torch.dtype or None. ValueError for another name."""
    table = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64, None: None}
    if name not in table:
        raise ValueError(f"--dtype is {name!r}, allowed: fp32, bf16, fp16, fp64")
    return table[name]


def check_device(name: str) -> str:
    """The device that is meant; ValueError for one that does not exist, here or at all."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device is {name!r}, allowed: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device is 'cuda', but PyTorch finds no CUDA device here; use --device cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
