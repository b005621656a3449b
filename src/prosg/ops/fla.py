"""The kernels of flash-linear-attention (fla-core, MIT): Triton, for GPUs, compiled at their first call.

An operation's `fla.py` calls its functions, imported at the first call, which takes seconds; here is what these files
share: whether the package can be used, the types that it computes in, and the layout of its states. fla's state of a
head is (K, V), rows for keys: the transpose of ours. A state that comes from it is passed on as a transposed view, so
that decoding, where it goes back unchanged, copies nothing.

The rows of a batch end at different steps. Steps after a row's end are masked, not cut out with fla's `cu_seqlens`:
packing the rows would need their lengths on the host, a synchronisation in every layer, and copies of all inputs. The
projections around the recurrence, which cost more, compute these steps in any case.

Types: the state is fp32. Under autocast the chunked forms get operands in its type, as matrix products do, and bf16
where torch.set_float32_matmul_precision is "medium". Otherwise they get fp32, which Triton multiplies as TF32, a
relative error of about 1e-3; the environment variable TRITON_F32_DEFAULT=ieee makes products exact and slower. The
forms for one token have no such products and are exact.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["FLA", "NARROWEST", "FlaLibrary", "from_fla", "instead", "matrix_type", "needs_gradient", "to_fla"]

K = TypeVar("K", bound=Callable[..., Any])

NARROWEST = 16
"""Least width of a head's keys and values in chunked forms: that of a tile of a tensor core's product."""
TYPES = (torch.float32, torch.bfloat16, torch.float16)


class FlaLibrary:
    """The package fla-core on a GPU."""

    device = "cuda"

    @cached_property
    def missing(self) -> str:
        """Why the package cannot be used on this machine; "" where it can. The import takes seconds, once."""
        if not torch.cuda.is_available():
            return "there is no GPU"
        if find_spec("fla") is None:
            return "fla-core is not installed; pip install 'prosg[gpu]'"
        try:
            import_module("fla.ops.rwkv7")
        except (ImportError, AttributeError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return f"fla-core cannot be imported ({reason}); pip install 'prosg[gpu]'"
        return ""

    def description(self) -> str:
        """Returns the package's version."""
        return f"fla-core {version('fla-core')}"

    def unavailable(self, device: torch.device, dtype: torch.dtype) -> str:
        """Returns why the package cannot be used on this device and in this type; "" where it can."""
        if device.type != self.device:
            return f"it runs on a GPU, not on {device.type}"
        if dtype not in TYPES:
            return f"it computes in float32 and narrower, not in {dtype}"
        return self.missing


FLA = FlaLibrary()


def to_fla(state: Float[Tensor, "B H V K"]) -> Float[Tensor, "B H K V"]:
    """Returns a state in fla's layout, contiguous; no copy of a state that `from_fla` returned."""
    return state.mT.contiguous()


def from_fla(state: Float[Tensor, "B H K V"]) -> Float[Tensor, "B H V K"]:
    """Returns a state of fla's in our layout, as a view."""
    return state.mT


def matrix_type(x: Tensor) -> torch.dtype:
    """Returns the type of operands of matrix products: that of autocast on x's device, or what PyTorch's own have."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.bfloat16 if torch.get_float32_matmul_precision() == "medium" else x.dtype


def needs_gradient(*tensors: Tensor) -> bool:
    """Returns whether a call with these tensors is differentiated."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def instead(operation: str, kernel: K, name: str, reason: str) -> K:
    """Returns the kernel that takes over where fla has no form of a call, and warns (which Python shows once)."""
    warnings.warn(f"{operation}: fla has no kernel {reason}; {name!r} runs instead", RuntimeWarning, stacklevel=3)
    return kernel
