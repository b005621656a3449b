"""Anchors of models that transformers runs: recurrent memories are pulled back, windows keep the prompt beside them.

A recurrent layer's memory is one tensor (B, U, ...) of transformers' cache: U channels of Mamba, heads of Mamba-2 and
of gated DeltaNet. It is pulled between two calls, which read one token each. Where all layers attend in a window, the
prompt's keys and values stay (`kept_keys`). Attention over the whole text keeps the prompt by itself. Models that have
both kinds of layers, and types with caches of their own (xlstm, recurrent_gemma), are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from prosg.backbones.hf.cache import CACHES, EmptyState, RecurrentState, TransformersModel
from prosg.backbones.hf.kept_keys import keep_prompt
from prosg.backbones.hf.windows import attention_window
from prosg.backbones.layers import anchor_to_memories
from prosg.core.state import Anchor, State
from prosg.ops.pull import Pull, pull_memory

__all__ = ["anchor_layers", "anchor_refusal", "layer_units", "pull_layers"]


def layer_units(state: State) -> tuple[int, ...]:
    """Returns for each entry of a state the units of its recurrent memory, 0 for one without."""
    return tuple(layer.memory.shape[1] if isinstance(layer, RecurrentState) else 0 for layer in state)


def anchor_refusal(model: TransformersModel, state: State) -> str:
    """Returns why states of this model cannot be anchored; "" where they can."""
    model_type = model.config.model_type
    if model_type in CACHES:
        return "its memory is no tensor of transformers' common cache; known are recurrent layers of that cache"
    attends, recurs = any(hasattr(layer, "keys") for layer in state), any(layer_units(state))
    if attends and getattr(model.config, "sliding_window", None):
        if not recurs and attention_window(model.config):
            return ""
        return "some of its layers see a window of the text only, and forget the prompt's keys and values"
    if not recurs:
        return "it has no recurrent memory; attention keeps the prompt as it is"
    return ""


def anchor_layers(target: State, log_keep: Sequence[Tensor], share: Sequence[Tensor]) -> Anchor:
    """Returns the pull of each recurrent layer, and `EmptyState` for the other entries of the state.

    Without a recurrent layer it keeps the prompt's keys and values, and there are no windows and strengths to it.
    """
    if not any(layer_units(target)):
        return keep_prompt(target)
    layers: list[Any] = []
    for layer, keep, added in zip(target, log_keep, share, strict=True):
        recurrent = isinstance(layer, RecurrentState)
        layers += anchor_to_memories((layer,), (keep,), (added,)) if recurrent else [EmptyState()]
    return tuple(layers)


def pull_layers(state: State, anchor: Anchor) -> State:
    """Returns a state after one pull of its recurrent layers."""
    return tuple(
        layer._replace(memory=pull_memory(layer.memory, pull)) if isinstance(pull, Pull) else layer
        for layer, pull in zip(state, anchor, strict=True)
    )
