"""RWKV-4's recurrence: the implementations behind one signature, and the choice among them.

    scan    the oracle, step by step, differentiated by autograd: any device and type; `wkv4_scan` has the equations
    torch   in chunks, with a backward written by hand: any device and type
    c       compiled, with a backward written by hand: CPU, fp32 and fp64, where a compiler was there at installation
    auto    c where it serves, else torch

Every one takes w, u (C,), k, v (B, T, C), the memory and `lengths` (B,) or None, and returns y (B, T, C) and the memory
after the last valid step. Steps at and beyond `lengths` change nothing, return 0 and get no gradient. `top` has no
gradient, and those of num and den are at fixed top: exact for every function of the true memory (num, den) e^top.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from prosg.ops import wkv4_c
from prosg.ops.wkv4_scan import EMPTY_TOP, Memory, wkv4_scan
from prosg.ops.wkv4_torch import wkv4_torch

__all__ = ["EMPTY_TOP", "KERNELS", "Kernel", "Memory", "describe", "kernel", "wkv4_scan"]

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Memory, Tensor | None], tuple[Tensor, Memory]]
KERNELS: dict[str, Kernel] = {"scan": wkv4_scan, "torch": wkv4_torch, "c": wkv4_c.wkv4_c}


def _unavailable(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why `name` does not serve here, or None."""
    return wkv4_c.unavailable(device, dtype) if name == "c" else None


def kernel(name: str, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The implementation called `name`; "auto" picks the fastest that serves this device and type.

    Raises ValueError, saying what there is, if `name` is unknown or does not serve.
    """
    if name == "auto":
        name = "torch" if _unavailable("c", device, dtype) else "c"
    if name not in KERNELS:
        raise ValueError(f"unknown wkv4 kernel {name!r}; known are auto, {', '.join(KERNELS)}")
    if reason := _unavailable(name, device, dtype):
        others = ", ".join(other for other in KERNELS if not _unavailable(other, device, dtype))
        raise ValueError(f"wkv4 kernel {name!r} is not available: {reason}; available are auto, {others}")
    return KERNELS[name]


def describe(device: torch.device, dtype: torch.dtype) -> str:
    """What "auto" picks, in one line, such as "wkv4: c (avx512f)" or "wkv4: torch (c: not built ...)"."""
    reason = _unavailable("c", device, dtype)
    return f"wkv4: torch (c: {reason})" if reason else f"wkv4: c ({wkv4_c.instructions()})"
