"""Backbones: recurrent language models as functions of (tokens, state, update)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from prosg.backbones.layouts import RETNET_LAYOUT, RWKV4_LAYOUT, RWKV7_LAYOUT, Layout
from prosg.backbones.native import Native
from prosg.backbones.retnet import RETNET_SIZES, RetNet, RetNetConfig
from prosg.backbones.rwkv4 import RWKV4, RWKV4_SIZES, RWKV4Config
from prosg.backbones.rwkv7 import RWKV7, RWKV7_SIZES, RWKV7Config

__all__ = ["BACKBONES", "BackboneKind"]


class BackboneKind(NamedTuple):
    """A native backbone: one whose weights this package reads and writes itself."""

    model: Callable[..., Native]
    """(config, kernel) -> the backbone"""
    config: type[Any]
    """its sizes"""
    sizes: Mapping[str, Any]
    """configs by name: published sizes, "demo" and "debug" """
    layout: Layout
    """the names of its tensors in files"""


BACKBONES: dict[str, BackboneKind] = {
    "rwkv4": BackboneKind(RWKV4, RWKV4Config, RWKV4_SIZES, RWKV4_LAYOUT),
    "rwkv7": BackboneKind(RWKV7, RWKV7Config, RWKV7_SIZES, RWKV7_LAYOUT),
    "retnet": BackboneKind(RetNet, RetNetConfig, RETNET_SIZES, RETNET_LAYOUT),
}
"""By `config.model_type`, which is also what `convert.detect` calls them."""
