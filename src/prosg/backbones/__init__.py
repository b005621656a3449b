"""Backbones: recurrent language models as functions of (tokens, state, update)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.layouts import Layout
from prosg.backbones.native import NativeBackbone, NativeConfig
from prosg.backbones.retnet import RETNET_SIZES, RetNet, RetNetConfig
from prosg.backbones.rwkv4 import RWKV4, RWKV4_SIZES, RWKV4Config
from prosg.backbones.rwkv7 import RWKV7, RWKV7_SIZES, RWKV7Config

__all__ = ["BACKBONES", "BackboneKind", "BackboneModule"]

BackboneModule = NativeBackbone | HFBackbone
"""A backbone as the module that it is, with parameters and submodules."""


class BackboneKind(NamedTuple):
    """What the package knows of a native backbone."""

    model: Callable[..., NativeBackbone]
    """its class: (config, kernel="auto") -> backbone"""
    config: Callable[..., NativeConfig]
    """its config's class"""
    sizes: Mapping[str, NativeConfig]
    """configs by name: published sizes, "demo" and "debug" """
    layout: Layout
    """how files name its tensors"""


BACKBONES: dict[str, BackboneKind] = {
    "rwkv4": BackboneKind(RWKV4, RWKV4Config, RWKV4_SIZES, RWKV4.layout),
    "rwkv7": BackboneKind(RWKV7, RWKV7Config, RWKV7_SIZES, RWKV7.layout),
    "retnet": BackboneKind(RetNet, RetNetConfig, RETNET_SIZES, RetNet.layout),
}
"""Native backbones by their `config.model_type`, which is also what `versions.detect` returns."""
