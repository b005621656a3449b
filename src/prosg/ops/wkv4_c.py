"""RWKV-4's recurrence, compiled (`wkv4.c`): the library, its call and its gradient.

The library has a plain C interface and is no Python module: it is loaded with ctypes, which lets other threads run
during a call. Large work is spread over torch's number of threads; the result does not depend on that number.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.ops.wkv4_scan import Memory

__all__ = ["instructions", "unavailable", "wkv4_c"]

ABI = 1
"""Of the functions' arguments; the same number stands in wkv4.c."""

PARALLEL_FROM = 1 << 18
"""B T C from which on more than one thread is worth waking."""

Entry = Callable[..., int]


@dataclass(frozen=True)
class Functions:
    """The library's functions for one number type, and the width of their blocks of channels."""

    forward: Entry
    backward: Entry
    lanes: int


@cache
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    paths = [Path(__file__).with_name(f"_wkv4{suffix}") for suffix in EXTENSION_SUFFIXES]
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        return "it is not built; install the package where there is a C compiler"
    try:
        library = ctypes.CDLL(str(found))
        abi = library.prosg_wkv4_abi()
    except (OSError, AttributeError) as error:
        return f"{found.name} cannot be loaded ({error})"
    if abi != ABI:
        return f"{found.name} is of another version; install the package again"
    library.prosg_wkv4_instructions.restype = ctypes.c_char_p
    return library


@cache
def _functions(dtype: torch.dtype) -> Functions:
    library = _library()
    assert isinstance(library, ctypes.CDLL)
    name = {torch.float32: "f32", torch.float64: "f64"}[dtype]
    forward = getattr(library, f"prosg_wkv4_forward_{name}")
    backward = getattr(library, f"prosg_wkv4_backward_{name}")
    forward.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_void_p] * 12
    backward.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_void_p] * 17
    return Functions(forward, backward, library.prosg_wkv4_lanes())


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Helpers of this process: after a fork the parent's threads are gone."""
    return ThreadPoolExecutor(threads, thread_name_prefix="wkv4")


def _call(entry: Entry, lanes: int, k: Tensor, *pointers: int | None) -> None:
    """Run every item, a row times a block of channels, over as many threads as are worth it."""
    batch, time, channels = k.shape
    items = batch * -(-channels // lanes)
    threads = min(torch.get_num_threads(), items) if k.numel() >= PARALLEL_FROM else 1
    if threads == 1:
        failed = entry(time, channels, 0, items, *pointers)
    else:
        cuts = [items * i // threads for i in range(threads + 1)]
        pool = _pool(os.getpid(), threads - 1)
        others = [pool.submit(entry, time, channels, cuts[i], cuts[i + 1], *pointers) for i in range(1, threads)]
        failed = entry(time, channels, 0, cuts[1], *pointers)
        # Every one is waited for, whatever another returned: they write into our tensors.
        failed += sum(other.result() for other in others)
    if failed:
        raise MemoryError("wkv4: no memory for the working space of backward")


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, num: Tensor, den: Tensor, top: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Everything contiguous."""
    functions = _functions(k.dtype)
    outputs = torch.empty_like(k), torch.empty_like(num), torch.empty_like(den), torch.empty_like(top)
    _call(
        functions.forward,
        functions.lanes,
        k,
        _pointer(lengths),
        *(x.data_ptr() for x in (w, u, k, v, num, den, top, *outputs)),
    )
    return outputs


class _Recurrence(torch.autograd.Function):
    """The forward above; backward computes the memories once more instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*args)
        outputs = _forward(*args)
        ctx.mark_non_differentiable(outputs[3])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gnum_out: Tensor, gden_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        w, u, k, v, num, den, top, lengths = ctx.saved_tensors
        functions = _functions(k.dtype)
        gradients = gw, gu, gk, gv, gnum, gden = [torch.empty_like(x) for x in (num, num, k, v, num, den)]
        incoming = [x.contiguous() for x in (gy, gnum_out, gden_out)]
        _call(
            functions.backward,
            functions.lanes,
            k,
            _pointer(lengths),
            *(x.data_ptr() for x in (w, u, k, v, num, den, top, *incoming, *gradients)),
        )
        return gw.sum(0), gu.sum(0), gk, gv, gnum, gden, None, None


def wkv4_c(
    w: Float[Tensor, " C"],
    u: Float[Tensor, " C"],
    k: Float[Tensor, "B T C"],
    v: Float[Tensor, "B T C"],
    memory: Memory,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T C"], Memory]:
    """The recurrence by the compiled library: fp32 or fp64 on the CPU, one type for all; see `wkv4`.

    Raises ValueError if types or shapes do not fit together, or a tensor is elsewhere.
    """
    num, den, top = memory
    tensors = (w, u, k, v, num, den, top)
    batch, _, channels = k.shape
    # The library reads plain memory: what does not fit must not reach it.
    wanted = ((channels,), (channels,), k.shape, k.shape, *[(batch, channels)] * 3)
    for x, shape in zip(tensors, wanted, strict=True):
        if x.shape != shape or x.dtype != k.dtype or not x.is_cpu:
            raise ValueError(f"wkv4: {x.dtype} {tuple(x.shape)} on {x.device} where {k.dtype} {shape} on cpu is wanted")
    if lengths is not None:
        if lengths.shape != (batch,):
            raise ValueError(f"wkv4: lengths {tuple(lengths.shape)} for {batch} rows")
        lengths = lengths.to("cpu", torch.int64).contiguous()
    w, u, k, v, num, den, top = (x.contiguous() for x in tensors)
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        y, *after = _Recurrence.apply(w, u, k, v, num, den, top, lengths)  # type: ignore[no-untyped-call]
    else:
        y, *after = _forward(w, u, k, v, num, den, top, lengths)
    return y, Memory(*after)


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the compiled version does not serve here, or None."""
    if device.type != "cpu":
        return f"it runs on the CPU, not on {device.type}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 and float64, not in {dtype}"
    library = _library()
    return library if isinstance(library, str) else None


def instructions() -> str:
    """The instruction set that this machine's CPU gets: "avx512f", "avx2" or "plain"."""
    library = _library()
    assert isinstance(library, ctypes.CDLL)
    return str(library.prosg_wkv4_instructions().decode())
