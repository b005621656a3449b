"""Which recurrences of this package run in models of transformers, by `--kernel`."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch

from prosg.backbones.hf.cache import TransformersModel
from prosg.backbones.hf.gated_delta import GATED_DELTA_RULE
from prosg.backbones.hf.mixers import MixerKernel, refusal, replace_functions, restore_functions
from prosg.backbones.hf.scan import SCAN

__all__ = ["MIXER_KERNELS", "KernelInUse", "kernel_names", "use_kernel"]

MIXER_KERNELS: dict[str, MixerKernel] = {
    "mamba": SCAN,
    "falcon_mamba": SCAN,
    "qwen3_next": GATED_DELTA_RULE,
    "qwen3_5_text": GATED_DELTA_RULE,
    "qwen3_5_moe_text": GATED_DELTA_RULE,
}
"""By model_type; transformers' own code runs all other types."""


class KernelInUse(NamedTuple):
    """What runs a model's recurrence."""

    kernel: str
    """as it was chosen: one of `kernel_names`"""
    recurrence: MixerKernel | None
    """the recurrence of this package that there is for this type"""
    reason: str = ""
    """why the mixers' own code runs, where that was not chosen"""

    @property
    def continues(self) -> bool:
        """Whether several tokens are read on from a state, with gradients through it."""
        replaced = self.kernel != "transformers" and not self.reason
        return replaced and self.recurrence is not None and self.recurrence.continues

    def describe(self, device: torch.device, dtype: torch.dtype) -> str:
        """Returns what runs the recurrence, as one line; "" for types that this package has no recurrence for.

        Args:
            device: Where the model is.
            dtype: The type of its weights.

        Raises:
            ValueError: where the chosen kernel cannot run.
        """
        return "" if self.recurrence is None else self.recurrence.describe(self.kernel, self.reason, device, dtype)


def kernel_names(model_type: str) -> tuple[str, ...]:
    """Returns the values of `--kernel` for a type."""
    return MIXER_KERNELS[model_type].kernels if model_type in MIXER_KERNELS else ("auto",)


def use_kernel(model: TransformersModel, kernel: str) -> KernelInUse:
    """Makes the mixers of a model use a recurrence of this package, or their own code again.

    Where "auto" cannot replace the mixers' own code, a warning says so: that code can do less, or is slow.

    Args:
        model: The model, changed in place.
        kernel: One of `kernel_names`; "transformers" for the mixers' own code.

    Raises:
        ValueError: for a kernel that this type does not have, and for one chosen by name where mixers cannot be
            changed.
    """
    model_type = model.config.model_type
    if kernel not in (names := kernel_names(model_type)):
        raise ValueError(f"kernel is {kernel!r}; {model_type} is run by transformers; allowed: {', '.join(names)}")
    recurrence = MIXER_KERNELS.get(model_type)
    if recurrence is None:
        return KernelInUse(kernel, None)
    mixers = recurrence.mixers(model)
    restore_functions(mixers)
    if kernel == "transformers":
        return KernelInUse(kernel, recurrence)
    reason = refusal(mixers, recurrence.replacements)
    if not reason:
        replace_functions(mixers, recurrence.replacements, kernel)
        return KernelInUse(kernel, recurrence)
    if kernel != "auto":
        raise ValueError(
            f"{model_type}: kernel {kernel!r} is not available: {reason}; available are auto, transformers"
        )
    warnings.warn(
        f"{model_type}: {recurrence.title} cannot be used: {reason}; transformers' own code runs, {recurrence.without}",
        stacklevel=3,
    )
    return KernelInUse(kernel, recurrence, reason)
