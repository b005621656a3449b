"""Recurrences of this package in the mixers of transformers' models.

A mixer of transformers calls the functions of its recurrence by name. Each mixer object gets a `forward` of its own:
the code of its class, with other globals, in which these names are this package's functions. Classes and modules of
transformers are not changed, and a copy of a model keeps its recurrence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import nn

__all__ = ["MixerKernel", "refusal", "replace_functions", "restore_functions"]

Replacement = Callable[..., Any]
"""A function (original, kernel, *arguments, **others): after the first two, its positional arguments are the first of
the original, its keyword-only ones are among the original's."""


class MixerKernel(NamedTuple):
    """A recurrence in the place of functions that mixers call by name."""

    title: str
    """what it is, in messages"""
    without: str
    """what transformers' own code is without it, in messages"""
    kernels: tuple[str, ...]
    """the values of `--kernel`; "transformers" leaves mixers as they are"""
    mixer: str
    """how the names of mixers' classes end"""
    replacements: Mapping[str, Replacement]
    """function that a mixer calls -> what is called instead"""
    describe: Callable[[str, str, torch.device, torch.dtype], str]
    """(kernel, reason why it cannot be used, device and type of the weights) -> what runs, as one line"""
    continues: bool = False
    """whether several tokens are read on from a state, with gradients through it"""

    def mixers(self, model: nn.Module) -> list[nn.Module]:
        """Returns the mixers of a model."""
        return [module for module in model.modules() if type(module).__name__.endswith(self.mixer)]


def restore_functions(mixers: Sequence[nn.Module]) -> None:
    """Makes mixers use their own code again."""
    for mixer in mixers:
        if _is_ours(mixer):
            del mixer.forward


def replace_functions(mixers: Sequence[Any], replacements: Mapping[str, Replacement], kernel: str) -> None:
    """Makes mixers call `replacements`, with `kernel` as their second argument."""
    for mixer in mixers:
        forward = _code(mixer)
        ours = {name: partial(function, forward.__globals__[name], kernel) for name, function in replacements.items()}
        copy = FunctionType(forward.__code__, {**forward.__globals__, **ours}, forward.__name__, forward.__defaults__)
        copy.__kwdefaults__ = forward.__kwdefaults__
        mixer.forward = MethodType(copy, mixer)


def refusal(mixers: Sequence[nn.Module], replacements: Mapping[str, Replacement]) -> str:
    """Returns why the functions that mixers call cannot be replaced; "" where they can."""
    reasons = (_refusal(mixer, replacements) for mixer in mixers)
    return next(filter(None, reasons), "" if mixers else "it has no mixers")


def _refusal(mixer: nn.Module, replacements: Mapping[str, Replacement]) -> str:
    forward = _code(mixer)
    if "forward" in vars(mixer) or any(hasattr(module, "_hf_hook") for module in mixer.modules()):
        return "a mixer's forward is replaced already, or its weights are offloaded"
    if not isinstance(forward, FunctionType) or forward.__closure__:
        return f"{type(mixer).__name__}.forward is no plain function"
    for name, ours in replacements.items():
        if name not in forward.__code__.co_names or name not in forward.__globals__:
            return f"{type(mixer).__name__}.forward does not call {name}"
        parameters = list(inspect.signature(ours).parameters.values())[2:]
        first = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        named = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        actual = list(inspect.signature(forward.__globals__[name]).parameters)
        if actual[: len(first)] != first or not named <= set(actual):
            return f"{name} has other arguments: {', '.join(actual)}"
    return ""


def _code(mixer: nn.Module) -> Any:
    """The `forward` of the mixer's class, without transformers' decorator, which is for offloaded weights."""
    return inspect.unwrap(type(mixer).forward)


def _is_ours(mixer: nn.Module) -> bool:
    """Whether this mixer has a `forward` that was made here: one with the code of its class."""
    forward = vars(mixer).get("forward")
    return isinstance(forward, MethodType) and forward.__code__ is _code(mixer).__code__
