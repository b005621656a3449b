"""Learned initial states as files in RWKV's own format: a .pth with a tensor blocks.N.att.time_state per layer.

RWKV-7's memory is stored as its recurrence holds it, in RWKV-PEFT and here; files of RWKV-5 and 6 are transposed by
their readers. RWKV-4 has no such files elsewhere: its (2, C) is this package's.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from prosg.backbones.base import Backbone
from prosg.checkpoints.tensors import read_tensors
from prosg.checkpoints.torch_file import save_torch
from prosg.checkpoints.weights import check_finite
from prosg.core.checks import GREATEST
from prosg.model.initial_state import InitialState
from prosg.utils.io import CheckpointError, written_whole
from prosg.utils.spelling import meant_path

__all__ = ["STATE_FILE", "load_initial", "save_initial"]

STATE_FILE = "state.pth"
"""The file's name in the output folder of a training."""


def save_initial(initial: InitialState, path: str | Path, *, overwrite: bool = False) -> None:
    """Writes a learned initial state, in fp32."""
    tensors = {_name(i): learned.detach().cpu().float() for i, learned in enumerate(initial.layers)}
    with written_whole(Path(path), overwrite=overwrite) as temporary:
        save_torch(tensors, temporary)


def load_initial(path: str | Path, backbone: Backbone) -> InitialState:
    """Reads a learned initial state for a backbone.

    Args:
        path: A `.pth`, or the output folder of a training of initial states.
        backbone: The backbone that will begin from it.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it does not hold the states of such a backbone, naming tensor and shapes.
    """
    path = Path(path) / STATE_FILE if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file{meant_path(path)}")
    if path.suffix == ".st":  # square matrices, which some programs transpose there; nothing in the file tells
        raise CheckpointError(f"{path}: a state in a .st file may be transposed; give the .pth that it was made of")
    tensors = read_tensors(path)
    initial = InitialState(backbone)
    model_type, layers = backbone.config.model_type, len(initial.layers)
    if not any(re.search(r"\.time_state$", name) for name in tensors):
        raise CheckpointError(f"{path}: holds no learned initial states; needs tensors like {_name(0)}")
    expected = {_name(i): learned for i, learned in enumerate(initial.layers)}
    for what, names in (("missing", expected.keys() - tensors.keys()), ("unknown", tensors.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{path}: {what} tensor {min(names)}{more}; this {model_type} has {layers} layers")
    for name, learned in expected.items():
        stored = tensors[name]
        if stored.shape != learned.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(stored.shape)}, expected {tuple(learned.shape)} for this {model_type}"
            )
        check_finite(path, {name: stored}, GREATEST)
        with torch.no_grad():
            learned.copy_(stored)
    return initial


def _name(layer: int) -> str:
    return f"blocks.{layer}.att.time_state"
