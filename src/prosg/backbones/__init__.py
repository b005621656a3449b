"""Backbones: recurrent language models as functions of (tokens, state, update)."""

from typing import NamedTuple

from prosg.backbones.convert import RWKV4_LAYOUT, Layout
from prosg.backbones.rwkv4 import RWKV4, RWKV4Config

__all__ = ["BACKBONES", "BackboneKind", "NativeBackbone"]

NativeBackbone = RWKV4
"""Any backbone whose weights this package reads and writes itself."""


class BackboneKind(NamedTuple):
    """A native backbone, its config and the names of its tensors in files."""

    model: type[NativeBackbone]
    config: type[RWKV4Config]
    layout: Layout


BACKBONES: dict[str, BackboneKind] = {
    "rwkv4": BackboneKind(RWKV4, RWKV4Config, RWKV4_LAYOUT),
}
"""By `config.model_type`, which is also what `convert.detect` calls them."""
