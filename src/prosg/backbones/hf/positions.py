"""How many tokens of a text have positions that depend on nothing else.

A table of learned positions ends. Rotary positions of the kinds "dynamic" and "longrope" are turned otherwise as soon
as the longest text of a call passes a length: then keys that were kept no longer fit, and rows change each other.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn

from prosg.backbones.hf.cache import TransformersModel

__all__ = ["Positions", "find_positions"]

TABLE = re.compile("wpe|positions?_embed|embed_positions|position_embeddings?")
"""The last name of a table's module."""


class Positions(NamedTuple):
    """The longest text that a model reads."""

    most: int
    """tokens"""
    name: str
    """what of its configuration says so"""


def find_positions(model: TransformersModel) -> Positions | None:
    """Returns the longest text that a model reads; None where there is no such bound."""
    config, bounds = model.config, []
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) and TABLE.fullmatch(path.rpartition(".")[2]):
            name = getattr(config, "attribute_map", {}).get("max_position_embeddings", "max_position_embeddings")
            bounds.append(Positions(min(module.num_embeddings, getattr(config, name, module.num_embeddings)), name))
        kinds = getattr(module, "rope_type", None)
        for layers, kind in kinds.items() if isinstance(kinds, dict) else [("", kinds)]:
            if isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind):
                rope = config.rope_parameters[layers] if layers else config.rope_parameters
                most = rope["original_max_position_embeddings"] if kind == "longrope" else module.original_max_seq_len
                bounds.append(Positions(most, f"rope_type {kind} turns longer ones otherwise"))
    return min(bounds, default=None)
