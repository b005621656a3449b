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

from torch import Tensor

from prosg.ops.dispatch import Choice
from prosg.ops.wkv4 import compiled as wkv4_c
from prosg.ops.wkv4.chunk import wkv4_torch
from prosg.ops.wkv4.naive import EMPTY_TOP, Memory, wkv4_scan

__all__ = ["EMPTY_TOP", "KERNELS", "Kernel", "Memory", "available", "describe", "kernel", "wkv4_scan"]

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Memory, Tensor | None], tuple[Tensor, Memory]]
KERNELS: dict[str, Kernel] = {"scan": wkv4_scan, "torch": wkv4_torch, "c": wkv4_c.wkv4_c}

_choice = Choice(KERNELS, wkv4_c.LIBRARY)
available, kernel, describe = _choice.available, _choice.kernel, _choice.describe
