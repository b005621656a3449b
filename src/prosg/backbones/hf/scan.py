"""The compiled selective scan in the mixers of transformers' Mamba models.

transformers' own code is a loop over tokens that keeps several tensors (B, D, T, N), and its backward pass takes time
that grows with T squared. A mixer calls two functions of its module by name:

    mamba_selective_scan            a text from its beginning
    mamba_selective_state_update    one token from a state, which is written in place

Each mixer object gets a `forward` of its own: the code of its class, with other globals, in which these two names are
the functions below. Classes and modules of transformers are not changed, and a copy of a model keeps its scan. Around
the recurrence (softplus of dt + bias before, D x and the gate after) the functions compute what the originals do; the
recurrence itself runs in fp32, or fp64 in an fp64 model. Calls that the library cannot do go to the originals.
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

from prosg.backbones.hf.cache import TransformersModel
from prosg.ops.selective_scan.compiled import LIBRARY, compiled_selective_scan

__all__ = ["KERNEL_NAMES", "describe_scan", "use_scan"]

KERNEL_NAMES = {"mamba": ("auto", "c", "transformers"), "falcon_mamba": ("auto", "c", "transformers")}
"""model_type -> the values of `--kernel`; other types allow "auto" only."""


def use_scan(model: TransformersModel, kernel: str) -> str:
    """Makes the mixers of a model use the compiled scan, or their own code again.

    Args:
        model: The model, changed in place.
        kernel: "transformers" for the mixers' own code; "auto" or "c" for the compiled scan.

    Returns:
        "", or the reason why "auto" could not replace the mixers' own code, which is a warning too: that code is slow.

    Raises:
        ValueError: for a kernel that this type does not have, and for "c" where mixers cannot be changed.
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
    """Returns what runs the recurrence, as one line.

    Args:
        kernel: As for `use_scan`.
        reason: What `use_scan` returned.
        device: Where the model is.
        dtype: The type of its weights.

    Raises:
        ValueError: where `kernel` is "c" and the library cannot be used.
    """
    if kernel == "transformers":
        return "selective_scan: transformers (chosen)"
    if not reason and _library_runs(device, dtype, kernel):
        return f"selective_scan: c ({LIBRARY.description()})"
    return f"selective_scan: transformers (c: {reason or LIBRARY.unavailable(device, _wide(dtype))})"


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _code(mixer: nn.Module) -> Any:
    """The `forward` of the mixer's class, without transformers' decorator, which is for offloaded weights."""
    return inspect.unwrap(type(mixer).forward)


def _is_ours(mixer: nn.Module) -> bool:
    """Whether this mixer has a `forward` that was made here: one with the code of its class."""
    forward = vars(mixer).get("forward")
    return isinstance(forward, MethodType) and forward.__code__ is _code(mixer).__code__


def _refusal(mixer: nn.Module) -> str:
    """Why the functions that this mixer calls cannot be replaced; "" where they can."""
    forward = _code(mixer)
    if "forward" in vars(mixer) or any(hasattr(module, "_hf_hook") for module in mixer.modules()):
        return "a mixer's forward is replaced already, or its weights are offloaded"
    if not isinstance(forward, FunctionType) or forward.__closure__:
        return f"{type(mixer).__name__}.forward is no plain function"
    for name, ours in REPLACEMENTS.items():
        if name not in forward.__code__.co_names or name not in forward.__globals__:
            return f"{type(mixer).__name__}.forward does not call {name}"
        expected = list(inspect.signature(ours).parameters)[2:-1]
        actual = list(inspect.signature(forward.__globals__[name]).parameters)
        if actual[: len(expected)] != expected:
            return f"{name} has other arguments: {', '.join(actual)}"
    return ""


def _with_scan(forward: FunctionType, kernel: str) -> FunctionType:
    """A copy of the function that calls `REPLACEMENTS`."""
    ours = {name: partial(function, forward.__globals__[name], kernel) for name, function in REPLACEMENTS.items()}
    copy = FunctionType(forward.__code__, {**forward.__globals__, **ours}, forward.__name__, forward.__defaults__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy


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


REPLACEMENTS: dict[str, Callable[..., Any]] = {"mamba_selective_scan": _scan, "mamba_selective_state_update": _update}
"""Function that a mixer calls -> its replacement, whose first two arguments are the original and the kernel."""
