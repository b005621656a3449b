"""config.json of a model's folder: read, and its sizes checked before anything of that size is built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prosg.utils.io import CheckpointError, read_json
from prosg.utils.values import shortened, shown

__all__ = ["read_config"]

LAYERS = re.compile(r"(?:n|num)_(?:hidden_|encoder_|decoder_)?(?:layers?|blocks)|depth")
SIZES = re.compile(r"(?:d|n|num|dim)_\w+|\w+_(?:size|dim|rank|heads|groups|width)|vocab_size|n_embd|expand")
NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_layers", "n_layer", "n_embd", "d_model")
"""Sizes that no model fills in by itself, so that null is none."""
MOST_LAYERS = 1000
"""Ten times as many as any published model has; each takes a millisecond and more to build, weights or not."""
MOST = 1 << 24


def read_config(path: Path) -> dict[str, Any]:
    """Reads config.json.

    Raises:
        CheckpointError: for what is not a JSON object of finite numbers, and for a size that is missing, no whole
            number, negative, or greater than that of any model; the message names the file and the key.
    """
    config = read_json(path, finite=True)
    if not isinstance(config.get("model_type", ""), str):
        raise CheckpointError(f"{path}: model_type is {shown(config['model_type'])}; it must be text")
    _check_sizes(path, config, "")
    return config


def _check_sizes(path: Path, config: dict[str, Any], inside: str) -> None:
    for key, value in config.items():
        name = f"{inside}{shortened(key)}"
        if key in NEEDED and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise CheckpointError(f"{path}: {name} is {shown(value)}; it must be a whole number, at least 1")
        if isinstance(value, dict):
            _check_sizes(path, value, f"{name}.")
        elif LAYERS.fullmatch(key) and _beyond(value, MOST_LAYERS):
            raise CheckpointError(f"{path}: {name} is {shown(value)}; a model has at most {MOST_LAYERS}")
        elif SIZES.fullmatch(key) and _beyond(value, MOST):
            raise CheckpointError(f"{path}: {name} is {shown(value)}; allowed: at most {MOST}")


def _beyond(value: Any, most: int) -> bool:
    return isinstance(value, (int, float)) and abs(value) > most
