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

from prosg.backbones.hf.cache import CallRows, TokensRead, TransformersModel
from prosg.backbones.hf.continuing import CallCache, ContinuingCache, position_ids
from prosg.backbones.hf.windows import attention_window
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


def positions_after_prompt(read: TokensRead, anchor: Anchor) -> TokensRead:
    """Returns the tokens read, at least as many as the prompt has: no position comes before a key that is kept."""
    return TokensRead(torch.maximum(read.tokens, anchor[0].tokens))


def kept_mask(state: State, anchor: Anchor, time: int, window: int) -> Tensor:
    """Returns what T new tokens attend to: (B, 1, T, K + S + T), 0 where they do and the lowest number elsewhere.

    Zeros that fill a row up are not seen, nor is a key of the window that is also kept: at the prompt's end all are.

    Args:
        state: Before the tokens, with S keys.
        anchor: What is kept of the prompt, K keys.
        time: The number of new tokens, T.
        window: Tokens that each one sees without an anchor, itself among them.
    """
    kept, keys = kept_keys(anchor)[-1].keys, state[-1].keys
    seen, device = keys.shape[2], keys.device
    real = torch.cat([_filled(keys) & ~_also_kept(state, anchor), keys.new_ones(len(keys), time, dtype=torch.bool)], 1)
    back = torch.arange(seen, seen + time, device=device)[:, None] - torch.arange(seen + time, device=device)
    within = real[:, None] & (back >= 0) & (back < window)
    sees = torch.cat([_filled(kept)[:, None].expand(-1, time, -1), within], 2)
    lowest = torch.finfo(keys.dtype).min
    return torch.zeros_like(sees, dtype=keys.dtype).masked_fill(~sees, lowest)[:, None]


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


class KeptCallCache(CallCache):
    """A `CallCache` whose attention also sees the keys that are kept; the state after the call has the window's alone.

    Args:
        layers: As in `CallCache`.
        rows: Likewise.
        window: Likewise.
        kept: Of each layer.
    """

    def __init__(self, layers: State, rows: CallRows, window: int, kept: tuple[KeptKeys, ...]) -> None:
        super().__init__(layers, rows, window)
        self.kept = kept

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **others: Any) -> tuple[Tensor, Tensor]:
        """Takes keys and values (B, H, T, D); returns those that attention sees."""
        seen, kept = super().update(keys, values, layer_idx), self.kept[layer_idx]
        keys, values = (torch.cat([a.to(b.dtype), b], 2) for a, b in zip(kept, seen, strict=True))
        return keys, values


class KeptCache(ContinuingCache):
    """Cache, mask and positions of a call on T tokens of attention in a window that also sees the prompt's kept keys.

    Args:
        model: The model that is called.
        state: What was read.
        anchor: What each layer keeps of the prompt.
        time: Tokens of the call.
        lengths: Valid ones of each row (B,); None for all.
        keep: Whether a state is wanted afterwards.
    """

    def __init__(
        self, model: TransformersModel, state: State, anchor: Anchor, time: int, lengths: Tensor | None, keep: bool
    ) -> None:
        moved = (positions_after_prompt(state[0], anchor), *state[1:])
        self.kept = kept_keys(anchor)
        self.mask = kept_mask(moved, anchor, time, attention_window(model.config))
        self.position_ids = position_ids(moved[0].tokens, time, lengths)
        super().__init__(model, state[1:], CallRows(moved[0].tokens, lengths), keep)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "attention_mask": self.mask, "position_ids": self.position_ids}

    def build(self, model: TransformersModel, layers: State | None, rows: CallRows) -> tuple[str, Any]:
        return "past_key_values", KeptCallCache(layers or (), rows, attention_window(model.config), self.kept)
