"""States that calls read on from with gradients: attention alone, and hybrids of Gated DeltaNet and attention.

A `DynamicCache` of transformers is written in place, which no gradient passes, and knows no rows of different lengths.
In its place a model is called with a `CallCache`: it answers the same questions from a state, and what the model gives
it becomes the next state. Of a row, only its valid tokens count:

    memory        the recurrence itself leaves it as it is at other steps (`CarriedMemory`)
    convolution   its last inputs end at the row's last valid token
    attention     keys and values end there, with zeros in front (`core.state`); what is behind them no token sees; in a
                  window of N tokens the last N - 1 are kept
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prosg.backbones.hf.cache import (
    AttentionState,
    CallRows,
    LayerState,
    ModelCache,
    RecurrentState,
    TransformersModel,
)
from prosg.backbones.hf.windows import attention_window
from prosg.backbones.layers import add_memories
from prosg.core.state import State
from prosg.ops.pull import Pull

__all__ = ["ATTENTION_TYPES", "CallCache", "CarriedMemory", "ContinuingCache", "load_layers", "position_ids"]

ATTENTION_TYPES = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
"""Types of attention alone, whose code asks a cache for nothing but what a `CallCache` answers."""


class CarriedMemory(NamedTuple):
    """What a recurrence gets in the place of the memory that it starts from."""

    memory: Tensor | None = None
    """(B, H, K, V); None for zeros"""
    lengths: Tensor | None = None
    """(B,) valid tokens; None: all"""
    pull: Pull | None = None
    """pulls the memory after every valid token"""


class Alignment(NamedTuple):
    """How the keys of S + T tokens become those of a state, the same in every layer of a call."""

    kept: int
    """as many of the last places are kept"""
    source: Tensor | None = None
    """(B, kept) the place that each comes from; None where all rows are as long as the call"""
    filled: Tensor | None = None
    """(B, kept) bool: whether there is such a token"""


class CallCache:
    """The cache of one call, with the methods of transformers' `Cache` that a model calls.

    Args:
        layers: The state without its `TokensRead`; None before the first token.
        rows: What of each row is read.
        window: Tokens that attention sees at most; 0 for the whole text.
    """

    is_compileable = False

    def __init__(self, layers: State | None, rows: CallRows, window: int = 0) -> None:
        self.before = layers
        self.rows = rows
        self.window = window
        self.convolved: dict[int, Tensor] = {}
        self._alignment: Alignment | None = None
        self.after: dict[int, LayerState] = {}
        attention = [layer for layer in layers or () if isinstance(layer, AttentionState)]
        self.seen = attention[0].keys.shape[2] if attention else 0
        self.keep = True

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns the number of keys before the call."""
        return self.seen

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Returns the number of keys before the call."""
        return self.seen

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Returns the number of keys that attention sees, and the position of the first."""
        return self.seen + query_length, 0

    def is_recording_past(self, layer_idx: int) -> bool:
        """True: the code for one token, which writes to the state, is for caches that do not need the past."""
        return True

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Returns (B, C, K) the inputs of a layer's convolution before the call."""
        return None if self.before is None else self.before[layer_idx].conv

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> CarriedMemory:
        """Returns what a layer's recurrence starts from."""
        memory = None if self.before is None else self.before[layer_idx].memory
        pull = None if self.rows.anchor is None else self.rows.anchor[layer_idx]
        return CarriedMemory(memory, self.rows.lengths, pull)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, **others: Any) -> tuple[Tensor, Tensor]:
        """Takes keys and values (B, H, T, D); returns those that attention sees."""
        time = keys.shape[2]
        if self.before is not None:
            layer = self.before[layer_idx]
            keys, values = torch.cat([layer.keys, keys], 2), torch.cat([layer.values, values], 2)
        if self.keep:
            self.after[layer_idx] = AttentionState(*(self._aligned(x, time) for x in (keys, values)))
        return keys, values

    def update_conv_state(self, inputs: Tensor, layer_idx: int, conv_kernel_size: int, state_idx: int = 0) -> Tensor:
        """Takes a convolution's inputs (B, C, T); returns them behind those of the tokens before."""
        time, before = inputs.shape[2], self.get_conv_state(layer_idx)
        if before is not None:
            inputs = torch.cat([before.to(inputs.dtype), inputs], 2)
        padded = F.pad(inputs, (max(conv_kernel_size - (inputs.shape[2] - time), 0), 0))
        if self.rows.lengths is None:
            last = padded[:, :, -conv_kernel_size:].clone()
        else:
            end = padded.shape[2] - time + self.rows.lengths.unsqueeze(1)
            place = end - conv_kernel_size + torch.arange(conv_kernel_size, device=end.device)
            last = padded.gather(2, place.unsqueeze(1).expand(-1, padded.shape[1], -1))
        self.convolved[layer_idx] = last
        return inputs

    def update_recurrent_state(self, memory: Tensor, layer_idx: int, state_idx: int = 0) -> None:
        """Takes the memory of a layer whose convolution has run."""
        self.after[layer_idx] = RecurrentState(self.convolved.pop(layer_idx), memory)

    def _aligned(self, x: Tensor, time: int) -> Tensor:
        """(B, H, S + T, D) with each row's last valid token at the end, zeros in front, and no more than is seen."""
        if self._alignment is None:
            self._alignment = self._align(x.shape[2], time)
        kept, source, filled = self._alignment
        if source is None or filled is None:
            return x if kept == x.shape[2] else x[:, :, x.shape[2] - kept :].clone()
        x = x.gather(2, source[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
        return torch.where(filled[:, None, :, None], x, 0)

    def _align(self, length: int, time: int) -> Alignment:
        """Finds which of `length` = S + T keys are kept after a call on `time` = T tokens."""
        lengths = self.rows.lengths
        read = self.rows.read + (time if lengths is None else lengths)
        kept = min(int(read.max()), length, *([self.window - 1] if self.window else []))
        if lengths is None:
            return Alignment(kept)
        place = torch.arange(length - kept, length, device=read.device)
        source = place - (time - lengths).unsqueeze(1)
        return Alignment(kept, source.clamp(min=0), (place >= length - read.unsqueeze(1)) & (source >= 0))


class ContinuingCache(ModelCache):
    """A `CallCache`: several tokens are read on from a state, in rows of any length, with gradients."""

    def __init__(self, model: TransformersModel, layers: State | None, rows: CallRows, keep: bool) -> None:
        super().__init__(model, layers, rows, keep or layers is not None or rows.anchor is not None)
        self.keep = keep
        if self.cache is not None:
            self.cache.keep = keep

    def build(self, model: TransformersModel, layers: State | None, rows: CallRows) -> tuple[str, Any]:
        return "past_key_values", CallCache(layers, rows, attention_window(model.config))

    def layers(self) -> State:
        return tuple(layer for _, layer in sorted(self.cache.after.items())) if self.keep else ()


def position_ids(read: Tensor, time: int, lengths: Tensor | None) -> Tensor:
    """Returns the positions (B, T) of tokens in rows that have read `read` (B,) tokens.

    Padding has none of its own beyond the last token of the longest row: a table of positions may end there.
    """
    places = read.unsqueeze(1) + torch.arange(time, device=read.device)
    return places if lengths is None else places.clamp(max=(read + lengths).max().sub(1).clamp(min=0))


def load_layers(state: State, other: State, keep: Tensor, weight: Tensor) -> State:
    """Returns S <- keep S + S_other in rows whose weight is not 0, of recurrent layers. Attention is left as it is.

    Args:
        state: Of B rows.
        other: The same of other text.
        keep: (B,)
        weight: (B,); only whether it is 0 matters.
    """
    return tuple(
        add_memories((layer,), (other_layer,), keep, weight)[0] if isinstance(layer, RecurrentState) else layer
        for layer, other_layer in zip(state, other, strict=True)
    )
