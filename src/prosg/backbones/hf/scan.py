"""Mamba's recurrence in transformers' own mixers, run by the compiled selective scan where it serves.

transformers' own code is a loop over tokens that keeps several tensors (B, D, T, N), and its backward pass takes time
that grows with T squared. A mixer calls two functions of its module by name:

    mamba_selective_scan            a text from its beginning
    mamba_selective_state_update    one token on from a state, which is written to

A mixer gets its own `forward`: the very same code, for which these two names mean the functions below. Nothing that
mixers share is changed, and a copy of a model is a copy with it. Around the recurrence (softplus of dt + bias before,
D x and the gate after) the functions compute what the originals do; the recurrence itself in fp32, or fp64 in an fp64
model. They hand a call that the library does not serve to the originals.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosg.ops.selective_scan import KERNELS, LIBRARY

__all__ = ["KERNEL_NAMES", "describe_scan", "use_scan"]

KERNEL_NAMES = {"mamba": ("auto", "c", "transformers"), "falcon_mamba": ("auto", "c", "transformers")}
"""model_type -> what `--kernel` may say; other types take "auto" alone."""


def use_scan(model: Any, kernel: str) -> str:
    """Let the mixers of a model use the compiled scan, or, where `kernel` is "transformers", their own code again.

    Returns why a mixer's own code remains where it should not, "" otherwise. That is a warning too: it is slow.
    Raises ValueError for a kernel that this type does not have, and for "c" where it cannot be.
    """
    model_type = model.config.model_type
    if kernel not in (names := KERNEL_NAMES.get(model_type, ("auto",))):
        raise ValueError(f"kernel is {kernel!r}; {model_type} is run by transformers; allowed: {', '.join(names)}")
    if model_type not in KERNEL_NAMES:
        return ""
    mixers = [module for module in model.modules() if type(module).__name__.endswith("Mixer")]
    for mixer in mixers:
        if _is_ours(mixer):
            del mixer.forward
    if kernel == "transformers":
        return ""
    reason = next(filter(None, map(_refusal, mixers)), "" if mixers else "it has no mixers")
    if not reason:
        for mixer in mixers:
            mixer.forward = MethodType(_with_scan(_code(mixer), kernel), mixer)
        return ""
    if kernel == "c":
        raise ValueError(f"{model_type}: kernel 'c' is not available: {reason}; available are auto, transformers")
    warnings.warn(
        f"{model_type}: the compiled scan cannot be used: {reason}; transformers' own code runs, slow on a CPU",
        stacklevel=3,
    )
    return reason


def describe_scan(kernel: str, reason: str, device: torch.device, dtype: torch.dtype) -> str:
    """What runs the recurrence of a model on this device, in one line; `reason` is what `use_scan` returned.

    Raises ValueError where `kernel` is "c", and the library does not serve.
    """
    if kernel == "transformers":
        return "selective_scan: transformers (chosen)"
    if not reason and _serves(device, dtype, kernel):
        return f"selective_scan: c ({LIBRARY.instructions()})"
    return f"selective_scan: transformers (c: {reason or LIBRARY.unavailable(device, _wide(dtype))})"


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _code(mixer: nn.Module) -> Any:
    """The function of the mixer's class that computes; transformers' decorator around it is for offloaded weights."""
    return inspect.unwrap(type(mixer).forward)


def _is_ours(mixer: nn.Module) -> bool:
    """Whether this mixer has a `forward` of its own that was made here: the code of its class."""
    own = vars(mixer).get("forward")
    return isinstance(own, MethodType) and own.__code__ is _code(mixer).__code__


def _refusal(mixer: nn.Module) -> str:
    """Why this mixer's forward cannot be given other functions; "" where it can."""
    forward = _code(mixer)
    if "forward" in vars(mixer) or any(hasattr(module, "_hf_hook") for module in mixer.modules()):
        return "a mixer's forward is replaced already, or its weights are offloaded"
    if not isinstance(forward, FunctionType) or forward.__closure__:
        return f"{type(mixer).__name__}.forward is no plain function"
    for name, ours in SEAM.items():
        if name not in forward.__code__.co_names or name not in forward.__globals__:
            return f"{type(mixer).__name__}.forward does not call {name}"
        wanted = list(inspect.signature(ours).parameters)[2:-1]
        found = list(inspect.signature(forward.__globals__[name]).parameters)
        if found[: len(wanted)] != wanted:
            return f"{name} has other arguments: {', '.join(found)}"
    return ""


def _with_scan(forward: FunctionType, kernel: str) -> FunctionType:
    """The same function, for which the names of `SEAM` mean those below."""
    ours = {name: partial(function, forward.__globals__[name], kernel) for name, function in SEAM.items()}
    own = FunctionType(forward.__code__, {**forward.__globals__, **ours}, forward.__name__, forward.__defaults__)
    own.__kwdefaults__ = forward.__kwdefaults__
    return own


def _serves(device: torch.device, dtype: torch.dtype, kernel: str) -> bool:
    """Whether the library does; raises ValueError where it does not, but has to."""
    reason = LIBRARY.unavailable(device, _wide(dtype))
    if reason and kernel == "c":
        raise ValueError(f"selective_scan kernel 'c' is not available: {reason}; available are auto, transformers")
    return not reason


def _run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """x, dt (B, T, D), B, C (B, T, N) of the model's type -> y of that type, and the state (B, D, N)."""
    wide = _wide(x.dtype)
    if state is None:
        state = A.new_zeros(x.shape[0], *A.shape)
    y, after = KERNELS["c"](*(z.to(wide) for z in (x, dt, A, B, C, state)))
    return y.to(x.dtype), after


def _time(dt: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """dt (..., D) as the recurrence takes it."""
    dt = dt if bias is None else dt + bias.to(dt.dtype)
    return F.softplus(dt) if softplus else dt


def _after(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Past the recurrence: all (..., D)."""
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
    """hidden_states, dt, z (B, D, T), A (D, N), B, C (B, N, T), D, delta_bias (D,) -> y (B, D, T), the state if asked.

    `others` choose among the original's ways to the same result.
    """
    if not _serves(hidden_states.device, hidden_states.dtype, kernel):
        others |= {"D": D, "z": z, "delta_bias": delta_bias, "delta_softplus": delta_softplus}
        return original(hidden_states, dt, A, B, C, return_last_state=return_last_state, **others)
    # With the channels innermost: as the projections before and after have them.
    x = hidden_states.mT.contiguous()
    y, state = _run(x, _time(dt.mT, delta_bias, delta_softplus), A, B.mT, C.mT, None)
    y = _after(y, x, D, None if z is None else z.mT).mT
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
    if not _serves(hidden_states.device, hidden_states.dtype, kernel):
        others |= {"D": D, "z": z, "dt_bias": dt_bias, "dt_softplus": dt_softplus}
        y: Tensor = original(state, hidden_states, dt, A, B, C, **others)
        return y
    x, dt = hidden_states, _time(dt, dt_bias, dt_softplus)
    y, after = _run(x.unsqueeze(1), dt.unsqueeze(1), A, B.unsqueeze(1), C.unsqueeze(1), state)
    state.copy_(after)
    return _after(y.squeeze(1), x, D, z).to(x.dtype)


SEAM: dict[str, Callable[..., Any]] = {"mamba_selective_scan": _scan, "mamba_selective_state_update": _update}
"""What a mixer calls by name, and what stands in its place; the first two arguments are the original and the kernel."""
