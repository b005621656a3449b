"""RWKV-7's recurrence: the implementations behind one signature, and the choice among them.

    scan    the oracle, step by step, differentiated by autograd: any device and type; `wkv7_scan` has the equations
    torch   in chunks of time, differentiated by autograd: any device and type
    c       compiled, with a backward written by hand: CPU, fp32 and fp64, where a compiler was there at installation
    auto    c where it serves, else torch

Every one takes r, w, k, v, a, b (B, T, H, N), the state (B, H, N, N) and `lengths` (B,) or None, and returns y
(B, T, H, N) and the state after the last valid step. w is the logarithm of the decay, -0.61 to 0. Steps at and beyond
`lengths` change nothing, return 0 and get no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from prosg.ops.dispatch import Choice
from prosg.ops.wkv7 import compiled as wkv7_c
from prosg.ops.wkv7.chunk import wkv7_torch
from prosg.ops.wkv7.naive import wkv7_scan

__all__ = ["KERNELS", "Kernel", "available", "describe", "kernel", "wkv7_scan"]

Kernel = Callable[..., tuple[Tensor, Tensor]]
KERNELS: dict[str, Kernel] = {"scan": wkv7_scan, "torch": wkv7_torch, "c": wkv7_c.wkv7_c}

_choice = Choice(KERNELS, wkv7_c.LIBRARY)
available, kernel, describe = _choice.available, _choice.kernel, _choice.describe
