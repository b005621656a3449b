"""A prompt that has been read: state, update and last logits, as a value and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.core.state import State, join_states, take_rows
from prosg.core.update import LowRank, Site, Update, join_updates, take_update_rows

__all__ = ["EncodedPrompt", "flatten", "unflatten"]


class EncodedPrompt(NamedTuple):
    """What a prompt leaves behind. Its rows can be taken, joined, stored and combined with any state."""

    state: State
    """after the prompt"""
    update: Update | None
    """None for a backbone without a module"""
    logits: Tensor
    """(B, V), the prompt's last: the first answer token comes from them, that is, from the unmodified weights"""

    @property
    def batch(self) -> int:
        """Number of prompts."""
        return self.logits.shape[0]

    def take(self, rows: Tensor) -> EncodedPrompt:
        """Some of the prompts, by index (N,)."""
        update = None if self.update is None else take_update_rows(self.update, rows)
        return EncodedPrompt(take_rows(self.state, rows), update, self.logits[rows])

    @staticmethod
    def join(parts: list[EncodedPrompt]) -> EncodedPrompt:
        """One batch out of several."""
        updates = [part.update for part in parts if part.update is not None]
        if 0 < len(updates) < len(parts):
            raise ValueError("encoded prompts with and without an update cannot be joined")
        return EncodedPrompt(
            join_states([part.state for part in parts]),
            join_updates(updates) if updates else None,
            torch.cat([part.logits for part in parts]),
        )


def flatten(state: State, update: Update | None) -> dict[str, Tensor]:
    """Flat named tensors: `state.LAYER.NAME`, `update.LAYER.SITE.a` and `.b`."""
    flat: dict[str, Tensor] = {}
    for i, layer in enumerate(state):
        flat |= {f"state.{i}.{name}": leaf.contiguous() for name, leaf in layer._asdict().items()}
    for site, delta in (update or {}).items():
        flat |= {f"update.{site}.a": delta.a.contiguous(), f"update.{site}.b": delta.b.contiguous()}
    return flat


def unflatten(flat: Mapping[str, Tensor], backbone: Backbone) -> tuple[State, Update | None]:
    """The reverse, for states of this backbone; ValueError where a name or a shape does not fit."""
    try:
        empty = backbone.init_state(1)
        state = tuple(
            type(layer)(**{name: flat[f"state.{i}.{name}"] for name in layer._fields}) for i, layer in enumerate(empty)
        )
        for layer, blank in zip(state, empty, strict=True):
            for name, leaf, like in zip(layer._fields, layer, blank, strict=True):
                # An axis that is empty in the beginning grows with the text.
                fits = leaf.dim() == like.dim() and all(
                    size in (0, own) for own, size in zip(leaf.shape[1:], like.shape[1:], strict=True)
                )
                if not fits:
                    raise ValueError(f"{name} has shape {tuple(leaf.shape)}, expected (B, {tuple(like.shape[1:])})")
        update: dict[Site, LowRank] = {}
        for key in flat:
            if key.startswith("update.") and key.endswith(".a"):
                layer_index, name = key.split(".")[1:3]
                update[Site(int(layer_index), name)] = LowRank(flat[key], flat[key[:-1] + "b"])
    except KeyError as error:
        raise ValueError(f"tensor {error} is missing") from None
    return state, update or None
