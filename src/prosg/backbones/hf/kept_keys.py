"""The anchor of attention in a window: the prompt's last keys and values stay beside the window.

    kept    keys and values (K, D) of each head at the prompt's end, K < window: what the state held there
    window  those of the tokens read since, at most window - 1, as without an anchor
    a new token attends to kept, window and itself

The state is no larger than before, and a row's cost stays bounded: the window is seen twice at most. A prompt that is
longer than the window is kept by its end, whose values have seen what stood before it.

Related: StreamingLLM (arXiv 2309.17453) keeps a text's first tokens ("attention sinks") beside a window.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from prosg.backbones.hf.cache import AttentionState, CallRows, LayerState, ModelCache, TokensRead, TransformersModel
from prosg.core.state import Anchor, State

__all__ = ["KeptCache", "KeptKeys", "PromptEnd", "keep_prompt", "kept_keys"]


class PromptEnd(NamedTuple):
    """Beside a state's `TokensRead`: where the prompt ended."""

    tokens: Tensor
    """(B,) int64"""


class KeptKeys(NamedTuple):
    """Beside an `AttentionState`: what a layer keeps of the prompt. Zeros in front where a row has fewer."""

    keys: Tensor
    """(B, H, K, D)"""
    values: Tensor


def keep_prompt(target: State) -> Anchor:
    """Returns the anchor to a prompt's end: its number of tokens, and every layer's keys and values."""
    return (PromptEnd(target[0].tokens), *(KeptKeys(*layer) for layer in target[1:]))


def kept_keys(anchor: Anchor | None) -> tuple[KeptKeys, ...]:
    """Returns the layers of an anchor that keeps keys; () for none, and for one that pulls recurrent memories."""
    return tuple(layer for layer in anchor or () if isinstance(layer, KeptKeys))


def moved_on(read: TokensRead, anchor: Anchor) -> TokensRead:
    """Returns the tokens read, at least as many as the prompt has: no position comes before a key that is kept."""
    return TokensRead(torch.maximum(read.tokens, anchor[0].tokens))


def kept_mask(state: State, anchor: Anchor) -> Tensor:
    """Returns what a new token attends to: (B, 1, 1, K + T + 1), 0 where it does and the lowest number elsewhere.

    Zeros that fill a row up are not seen, nor is a key of the window that is also kept: at the prompt's end all are.
    """
    kept, window = kept_keys(anchor)[-1], state[-1]
    places = torch.cat([_filled(kept.keys), _filled(window.keys) & ~_also_kept(state, anchor)], 1)
    seen = torch.cat([places, places.new_ones(len(places), 1)], 1)
    lowest = torch.finfo(window.keys.dtype).min
    return torch.zeros_like(seen, dtype=window.keys.dtype).masked_fill(~seen, lowest)[:, None, None]


def _filled(keys: Tensor) -> Tensor:
    """(B, T) whether there is a key at all."""
    filled: Tensor = (keys != 0).any(3).any(1)
    return filled


def _also_kept(state: State, anchor: Anchor) -> Tensor:
    """(B, T) whether a key of the window is kept, too: the same key of the same place in the text."""
    kept, window = kept_keys(anchor)[-1].keys, state[-1].keys
    size, room = window.shape[2], kept.shape[2]
    if not size or not room:
        return torch.zeros(len(window), size, dtype=torch.bool, device=window.device)
    place = state[0].tokens[:, None] - size + torch.arange(size, device=window.device)
    at: Tensor = place - (anchor[0].tokens[:, None] - room)
    index = at.clamp(0, room - 1)[:, None, :, None].expand_as(window)
    same: Tensor = (kept.to(window.dtype).gather(2, index) == window).all(3).all(1)
    return same & (at >= 0) & (at < room)


class KeptCache(ModelCache):
    """The cache of one call on one token in which each layer has the kept keys in front of the window's own.

    Args:
        model: The model that is called.
        state: What was read.
        anchor: What each layer keeps of the prompt.
        window: Tokens that attention sees without an anchor.
    """

    def __init__(self, model: TransformersModel, state: State, anchor: Anchor, window: int) -> None:
        self.kept, self.window = kept_keys(anchor), window
        moved = (moved_on(state[0], anchor), *state[1:])
        self.mask = kept_mask(moved, anchor)
        super().__init__(model, state[1:], CallRows(moved[0].tokens), True)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "attention_mask": self.mask, "position_ids": self.read.unsqueeze(1)}

    def build(self, model: TransformersModel, layers: State | None, rows: CallRows) -> tuple[str, Any]:
        """Returns a cache that drops nothing: what a token may see, the mask says."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for i, (layer, kept) in enumerate(zip(layers or (), self.kept, strict=True)):
            front = (leaf.to(layer.keys.dtype) for leaf in kept)
            cache.update(*(torch.cat(pair, 2) for pair in zip(front, layer, strict=True)), i)
        return "past_key_values", cache

    def layer(self, index: int) -> LayerState:
        """Returns the window after the call: of all but what is kept, the last tokens."""
        layer, room = self.cache.layers[index], self.kept[index].keys.shape[2]
        leaves = (leaf.detach()[:, :, room:][:, :, 1 - self.window :].clone() for leaf in (layer.keys, layer.values))
        return AttentionState(*leaves)
