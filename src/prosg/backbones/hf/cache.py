"""The caches of transformers' models as values: what a cache holds becomes a state, and a state becomes a new cache.

A model of transformers writes to the cache that it is given, and some keep part of it in their own modules. So every
call gets a cache of its own, filled from the state, and what it holds afterwards is the next state: a state that was
given is never written to, and nothing stays behind in a module.

    Cache           `DynamicCache`: keys and values of attention, convolution and memory of linear attention
    XLSTMCache      xlstm's own class
    GriffinCache    recurrent_gemma: a `DynamicCache`, and attributes of its recurrent blocks

Keys and values grow with the text. Rows that have read less than others have zeros in front (`prosg.state`), which
`Read.tokens` tells from the rest.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, NamedTuple

from torch import Tensor

from prosg.core.state import State

__all__ = [
    "CACHES",
    "Attention",
    "Cache",
    "Convolution",
    "Griffin",
    "Linear",
    "MatrixMemory",
    "Nothing",
    "Read",
    "parameters",
]


class Read(NamedTuple):
    """A state's first entry: how many tokens each row has read."""

    tokens: Tensor
    """(B,) int64"""


class Attention(NamedTuple):
    """An attention layer."""

    keys: Tensor
    """(B, H, T, D)"""
    values: Tensor


class Linear(NamedTuple):
    """A layer of Mamba or of linear attention."""

    conv: Tensor
    """(B, C, K) the last inputs of the convolution"""
    memory: Tensor
    """(B, ...)"""


class Convolution(NamedTuple):
    """A layer that convolves and remembers no more than that."""

    conv: Tensor


class MatrixMemory(NamedTuple):
    """A layer of xLSTM: memory, normaliser, and the maximum that scales both."""

    c: Tensor
    n: Tensor
    m: Tensor


class Griffin(NamedTuple):
    """A recurrent layer of recurrent_gemma."""

    conv: Tensor
    memory: Tensor


class Nothing(NamedTuple):
    """A layer that remembers nothing."""


@functools.cache
def parameters(kind: type[Any]) -> frozenset[str]:
    """The names of what the models of a class are called with."""
    return frozenset(inspect.signature(kind.forward).parameters)


class Cache:
    """One call's cache. This one is `DynamicCache`, of whatever layers the model's configuration names."""

    cache: Any

    def __init__(self, model: Any, layers: State | None, batch: int, keep: bool) -> None:
        """`layers` is a state without its `Read`, or None before the first token; `keep`: a state is wanted after."""
        self.keep = keep
        self.name, self.cache = self.build(model, layers, batch) if keep else ("", None)

    @classmethod
    def refuse(cls, model: Any) -> str:
        """Why this model's cache cannot become a state; empty where it can."""
        from transformers import cache_utils

        attention = (cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer)
        known = (*attention, cache_utils.LinearAttentionLayer, cache_utils.DummyLayer)
        layers = cache_utils.DynamicCache(config=model.config).layers
        for layer in layers:
            if type(layer) not in known:
                return f"its cache has a {type(layer).__name__}, which is not known here"
            if getattr(layer, "number_of_states", 1) != 1:
                return "its layers keep several states each"
        if (
            len({(type(layer), getattr(layer, "sliding_window", 0)) for layer in layers if type(layer) in attention})
            > 1
        ):
            return "its attention layers see windows of different sizes"
        return ""

    def build(self, model: Any, layers: State | None, batch: int) -> tuple[str, Any]:
        """The argument's name, and transformers' object, filled with copies."""
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config)
        for i, layer in enumerate(layers or ()):
            if isinstance(layer, Attention):
                cache.update(layer.keys, layer.values, i)
            elif isinstance(layer, (Linear, Convolution)):
                cache.update_conv_state(layer.conv, i)
            if isinstance(layer, Linear):
                cache.update_recurrent_state(layer.memory, i)
        return "cache_params" if "cache_params" in parameters(model.__class__) else "past_key_values", cache

    def arguments(self) -> dict[str, Any]:
        """What the model is called with."""
        return {"use_cache": True, self.name: self.cache} if self.keep else {"use_cache": False}

    def layers(self) -> State:
        """What it holds after the call."""
        return tuple(self.layer(i) for i in range(len(self.cache.layers))) if self.keep else ()

    def layer(self, index: int) -> Any:
        """One layer's part of the state."""
        layer = self.cache.layers[index]
        if hasattr(layer, "recurrent_states"):
            conv, memory = layer.conv_states[0].detach(), layer.recurrent_states[0]
            return Convolution(conv) if memory is None else Linear(conv, memory.detach())
        return Nothing() if layer.keys is None else Attention(layer.keys.detach(), layer.values.detach())

    def close(self) -> None:
        """Leave nothing behind in the model."""


class XLSTMCache(Cache):
    """xlstm's cache: a dictionary of three tensors per layer."""

    @classmethod
    def refuse(cls, model: Any) -> str:
        return ""

    def build(self, model: Any, layers: State | None, batch: int) -> tuple[str, Any]:
        from transformers.models.xlstm.modeling_xlstm import xLSTMCache

        weight = model.get_input_embeddings().weight
        cache = xLSTMCache(model.config, batch, dtype=weight.dtype, device=weight.device)
        for i, layer in enumerate(layers or ()):
            cache.rnn_state[i] = tuple(leaf.clone() for leaf in layer)
        return "cache_params", cache

    def layers(self) -> State:
        states = self.cache.rnn_state.values() if self.keep else ()
        return tuple(MatrixMemory(*(leaf.detach() for leaf in layer)) for layer in states)


class GriffinCache(Cache):
    """recurrent_gemma: a `DynamicCache` for its attention; its recurrent blocks keep their states in attributes.

    They keep the last memory even where no cache is wanted, and read on from what they find there.
    """

    def __init__(self, model: Any, layers: State | None, batch: int, keep: bool) -> None:
        super().__init__(model, layers, batch, keep)
        blocks = (layer.temporal_block for layer in model.model.layers)
        self.blocks = {i: block for i, block in enumerate(blocks) if hasattr(block, "rg_lru")}
        for i, block in self.blocks.items():
            block.conv1d_state = None if layers is None else layers[i].conv
            block.rg_lru.recurrent_states = None if layers is None else layers[i].memory

    def layer(self, index: int) -> Any:
        if index not in self.blocks:
            return super().layer(index)
        block = self.blocks[index]
        return Griffin(block.conv1d_state.detach(), block.rg_lru.recurrent_states.detach())

    def close(self) -> None:
        for block in self.blocks.values():
            block.conv1d_state = block.rg_lru.recurrent_states = None


CACHES: dict[str, type[Cache]] = {"xlstm": XLSTMCache, "recurrent_gemma": GriffinCache}
"""By model_type; others have a `DynamicCache`."""
