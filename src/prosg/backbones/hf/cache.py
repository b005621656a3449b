"""The caches of transformers' models as values: a state becomes a new cache, and what a cache holds becomes a state.

A model of transformers writes to the cache that it is called with, and some types keep part of it in their own modules.
So every call gets a new cache, filled with copies from the state, and what it holds afterwards is the next state: a
state is never written to, and nothing stays behind in a module.

    ModelCache      `DynamicCache`: keys and values of attention, convolution and memory of linear attention
    ContinuingCache a state that several tokens are read on from, with gradients (`continuing`)
    XLSTMCache      xlstm's own class
    GriffinCache    recurrent_gemma: a `DynamicCache`, and attributes of its recurrent blocks

Keys and values grow with the text. Rows that have read less than others have zeros in front (`core.state`), which
`TokensRead` distinguishes from the rest.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections import Counter
from typing import Any, NamedTuple

from torch import Tensor

from prosg.core.state import Anchor, State

__all__ = [
    "CACHES",
    "AttentionState",
    "CallRows",
    "LayerState",
    "ModelCache",
    "RecurrentState",
    "TokensRead",
    "TransformersModel",
    "call_parameters",
]

TransformersModel = Any
"""A causal language model of transformers, a package that is imported on first use only."""


class TokensRead(NamedTuple):
    """The first entry of every state: how many tokens each row has read."""

    tokens: Tensor
    """(B,) int64"""


class AttentionState(NamedTuple):
    """State of an attention layer."""

    keys: Tensor
    """(B, H, T, D)"""
    values: Tensor


class RecurrentState(NamedTuple):
    """State of a layer of Mamba or of linear attention."""

    conv: Tensor
    """(B, C, K) the last inputs of the convolution"""
    memory: Tensor
    """(B, ...)"""


class ConvolutionState(NamedTuple):
    """State of a layer that convolves and has no other memory."""

    conv: Tensor


class XLSTMState(NamedTuple):
    """State of a layer of xLSTM: memory, normaliser, and the maximum that scales both."""

    c: Tensor
    n: Tensor
    m: Tensor


class GriffinState(NamedTuple):
    """State of a recurrent layer of recurrent_gemma."""

    conv: Tensor
    memory: Tensor


class EmptyState(NamedTuple):
    """State of a layer without memory."""


class CallRows(NamedTuple):
    """What a call reads of each row."""

    read: Tensor
    """(B,) tokens read before"""
    lengths: Tensor | None = None
    """(B,) valid tokens of the call, which only a `ContinuingCache` heeds; None: all"""
    anchor: Anchor | None = None
    """pulls each layer's memory after every valid token, likewise"""


LayerState = AttentionState | RecurrentState | ConvolutionState | XLSTMState | GriffinState | EmptyState


@functools.cache
def call_parameters(model_class: type[Any]) -> frozenset[str]:
    """Returns the names of the arguments that models of a class are called with."""
    return frozenset(inspect.signature(model_class.forward).parameters)


class ModelCache:
    """The cache of one call: a `DynamicCache` with the kinds of layers that the model's configuration names.

    Args:
        model: The model that is called.
        layers: The state without its `TokensRead`; None before the first token.
        rows: What the call reads of each row.
        keep: Whether a state is wanted afterwards.
    """

    cache: Any

    def __init__(self, model: TransformersModel, layers: State | None, rows: CallRows, keep: bool) -> None:
        self.keep, self.read = keep, rows.read
        self.name, self.cache = self.build(model, layers, rows) if keep else ("", None)

    @classmethod
    def unsupported(cls, model: TransformersModel) -> str:
        """Returns why this model's cache cannot become a state; "" where it can."""
        from transformers import cache_utils

        attention = (cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer)
        known = (*attention, cache_utils.LinearAttentionLayer, cache_utils.DummyLayer)
        layers = cache_utils.DynamicCache(config=model.config).layers
        for layer in layers:
            if type(layer) not in known:
                return f"its cache has a {type(layer).__name__}, which is not known here"
            if getattr(layer, "number_of_states", 1) != 1:
                return "its layers keep several states each"
        least, most = getattr(model.config, "time_step_limit", None) or (0.0, math.inf)
        if least > 0 or most < math.inf:
            return f"its own code heeds time_step_limit ({least:g} to {most:g}) in a whole text, and not token by token"
        if "chunked_attention" in (getattr(model.config, "layer_types", None) or ()):
            return "its attention sees a text in chunks, which a row of another age has elsewhere"
        windows = Counter(getattr(layer, "sliding_window", 0) for layer in layers if type(layer) in attention)
        if len(windows) > 1:
            seen = [f"{n} see {w} tokens" if w else f"{n} the whole text" for w, n in sorted(windows.items())[::-1]]
            return f"its attention layers see windows of different sizes ({', '.join(seen)})"
        return ""

    def build(self, model: TransformersModel, layers: State | None, rows: CallRows) -> tuple[str, Any]:
        """Returns the name of the model's argument, and transformers' cache filled with copies."""
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config)
        for i, layer in enumerate(layers or ()):
            if isinstance(layer, AttentionState):
                cache.update(layer.keys, layer.values, i)
            elif isinstance(layer, (RecurrentState, ConvolutionState)):
                cache.update_conv_state(layer.conv, i)
            if isinstance(layer, RecurrentState):
                cache.update_recurrent_state(layer.memory, i)
        return "cache_params" if "cache_params" in call_parameters(model.__class__) else "past_key_values", cache

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments to call the model with."""
        return {"use_cache": False} if self.cache is None else {"use_cache": True, self.name: self.cache}

    def layers(self) -> State:
        """Returns the layers of the state after the call; () without `keep`."""
        return tuple(self.layer(i) for i in range(len(self.cache.layers))) if self.keep else ()

    def layer(self, index: int) -> LayerState:
        """Returns the state of one layer."""
        layer = self.cache.layers[index]
        if hasattr(layer, "recurrent_states"):
            conv, memory = layer.conv_states[0].detach(), layer.recurrent_states[0]
            return ConvolutionState(conv) if memory is None else RecurrentState(conv, memory.detach())
        if layer.keys is None:
            return EmptyState()
        return AttentionState(*(_own_memory(leaf.detach()) for leaf in (layer.keys, layer.values)))

    def release(self) -> None:
        """Removes what the call left in the model."""


def _own_memory(tensor: Tensor) -> Tensor:
    """Copies what is a view of something larger: a window's keys and values would hold those of the whole text."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


class XLSTMCache(ModelCache):
    """xlstm's: a dictionary of three tensors per layer."""

    @classmethod
    def unsupported(cls, model: TransformersModel) -> str:
        return ""

    def build(self, model: TransformersModel, layers: State | None, rows: CallRows) -> tuple[str, Any]:
        from transformers.models.xlstm.modeling_xlstm import xLSTMCache

        weight = model.get_input_embeddings().weight
        cache = xLSTMCache(model.config, rows.read.shape[0], dtype=weight.dtype, device=weight.device)
        for i, layer in enumerate(layers or ()):
            cache.rnn_state[i] = tuple(leaf.clone() for leaf in layer)
        return "cache_params", cache

    def layers(self) -> State:
        states = self.cache.rnn_state.values() if self.keep else ()
        return tuple(XLSTMState(*(leaf.detach() for leaf in layer)) for layer in states)


class GriffinCache(ModelCache):
    """recurrent_gemma's: a `DynamicCache` for its attention; its recurrent blocks keep their states in attributes.

    They keep the last memory even where no cache is wanted, and start from it in the next call.
    """

    def __init__(self, model: TransformersModel, layers: State | None, rows: CallRows, keep: bool) -> None:
        super().__init__(model, layers, rows, keep)
        blocks = (layer.temporal_block for layer in model.model.layers)
        self.blocks = {i: block for i, block in enumerate(blocks) if hasattr(block, "rg_lru")}
        for i, block in self.blocks.items():
            block.conv1d_state = None if layers is None else layers[i].conv
            block.rg_lru.recurrent_states = None if layers is None else layers[i].memory

    def layer(self, index: int) -> LayerState:
        if index not in self.blocks:
            return super().layer(index)
        block = self.blocks[index]
        return GriffinState(block.conv1d_state.detach(), block.rg_lru.recurrent_states.detach())

    def release(self) -> None:
        for block in self.blocks.values():
            block.conv1d_state = block.rg_lru.recurrent_states = None


CACHES: dict[str, type[ModelCache]] = {"xlstm": XLSTMCache, "recurrent_gemma": GriffinCache}
"""By model_type; others have a `DynamicCache`."""
