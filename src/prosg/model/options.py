"""The keyword options of reading prompts and of writing answers, as type checkers see them, and their spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from prosg.core.encoded import Memory
from prosg.generation.sampling import SamplingOptions
from prosg.utils.spelling import meant

__all__ = ["EncodeOptions", "GenerateOptions", "HoldOptions", "check_names"]


class HoldOptions(TypedDict, total=False):
    """How a prompt is written and held."""

    memory: Memory | None
    """what holds it beside the state: "none", "anchor", "update", "both" or "auto" (see `Memory`); the model's own
    (`ProSG.memory`) by default"""
    tau: float | None
    """window of the anchor, tokens; that of the model's own anchor, or the backbone's default"""
    template: str
    """name of a template for messages; the model's own (`ProSG.template`) by default"""


class EncodeOptions(HoldOptions, total=False):
    """How a prompt is written, read and held."""

    chunk: int | None
    """tokens per call instead of the model's; a backbone that cannot continue has one call per prompt"""
    window: int | None
    """show the module windows of this many tokens, each read from the initial state: for prompts that overfill the
    state, which is that of the whole prompt; it is then read twice"""


class GenerateOptions(HoldOptions, SamplingOptions, total=False):
    """How a prompt is held, and how its answer is written."""


def check_names(function: str, options: Mapping[str, Any], known: type) -> None:
    """Raises TypeError for a keyword that a function does not have, with the one that was probably meant.

    Args:
        function: What was called.
        options: Its keywords.
        known: A TypedDict of those that it has.
    """
    names = known.__annotations__
    if unknown := [name for name in options if name not in names]:
        near = meant(unknown[0], names)
        raise TypeError(f"{function}() has no option {unknown[0]!r}{near}; allowed: {', '.join(names)}")
