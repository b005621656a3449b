"""The compiled selective scan in the mixers of transformers' Mamba models.

transformers' own code is a loop over tokens that keeps several tensors (B, D, T, N), and its backward pass takes time
that grows with T squared. A mixer calls two functions of its module by name, which `mixers` replaces:

    mamba_selective_scan            a text from its beginning
    mamba_selective_state_update    one token from a state, which is written in place

Around the recurrence (softplus of dt + bias before, D x and the gate after) the functions below compute what the
originals do; the recurrence itself runs in fp32, or fp64 in an fp64 model. Calls that the library cannot do go to the
originals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prosg.backbones.hf.mixers import MixerKernel
from prosg.ops.selective_scan.compiled import LIBRARY, compiled_selective_scan

__all__ = ["SCAN"]


def _describe(kernel: str, reason: str, device: torch.device, dtype: torch.dtype) -> str:
    """Says what runs the recurrence; raises ValueError where `kernel` is "c" and the library cannot be used."""
    if kernel == "transformers":
        return "selective_scan: transformers (chosen)"
    if not reason and _library_runs(device, dtype, kernel):
        return f"selective_scan: c ({LIBRARY.description()})"
    return f"selective_scan: transformers (c: {reason or LIBRARY.unavailable(device, _wide(dtype))})"


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _library_runs(device: torch.device, dtype: torch.dtype, kernel: str) -> bool:
    """Whether the library can run; raises ValueError where it cannot and `kernel` demands it."""
    reason = LIBRARY.unavailable(device, _wide(dtype))
    if reason and kernel == "c":
        raise ValueError(f"selective_scan kernel 'c' is not available: {reason}; available are auto, transformers")
    return not reason


def _run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """x, dt (B, T, D), B, C (B, T, N) in the model's type -> y in that type, and the state (B, D, N)."""
    wide = _wide(x.dtype)
    if state is None:
        state = A.new_zeros(x.shape[0], *A.shape)
    y, after = compiled_selective_scan(*(z.to(wide) for z in (x, dt, A, B, C, state)))
    return y.to(x.dtype), after


def _discretize(dt: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """dt (..., D) of the recurrence."""
    dt = dt if bias is None else dt + bias.to(dt.dtype)
    return F.softplus(dt) if softplus else dt


def _add_and_gate(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Adds D x to y and applies the gate z; all (..., D)."""
    y = y if D is None else y + x * D
    return y if z is None else y * F.silu(z)


def _scan(
    original: Callable[..., Any],
    kernel: str,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **others: Any,
) -> Any:
    """hidden_states, dt, z (B, D, T), A (D, N), B, C (B, N, T), D, delta_bias (D,) -> y (B, D, T), maybe the state.

    `others` select among equivalent code paths of the original.
    """
    if not _library_runs(hidden_states.device, hidden_states.dtype, kernel):
        others |= {"D": D, "z": z, "delta_bias": delta_bias, "delta_softplus": delta_softplus}
        return original(hidden_states, dt, A, B, C, return_last_state=return_last_state, **others)
    # With the channels innermost, as the projections before and after have them.
    x = hidden_states.mT.contiguous()
    y, state = _run(x, _discretize(dt.mT, delta_bias, delta_softplus), A, B.mT, C.mT, None)
    y = _add_and_gate(y, x, D, None if z is None else z.mT).mT
    return (y, state) if return_last_state else y


def _update(
    original: Callable[..., Any],
    kernel: str,
    state: Tensor,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    z: Tensor | None = None,
    **others: Any,
) -> Tensor:
    """state (B, D, N), hidden_states, dt, z (B, D), A (D, N), B, C (B, N), D, dt_bias (D,) -> y (B, D)."""
    if not _library_runs(hidden_states.device, hidden_states.dtype, kernel):
        others |= {"D": D, "z": z, "dt_bias": dt_bias, "dt_softplus": dt_softplus}
        y: Tensor = original(state, hidden_states, dt, A, B, C, **others)
        return y
    x, dt = hidden_states, _discretize(dt, dt_bias, dt_softplus)
    y, after = _run(x.unsqueeze(1), dt.unsqueeze(1), A, B.unsqueeze(1), C.unsqueeze(1), state)
    state.copy_(after)
    return _add_and_gate(y.squeeze(1), x, D, z).to(x.dtype)


SCAN = MixerKernel(
    title="the compiled scan",
    without="slow on a CPU",
    kernels=("auto", "c", "transformers"),
    mixer="Mixer",
    replacements={"mamba_selective_scan": _scan, "mamba_selective_state_update": _update},
    describe=_describe,
)
