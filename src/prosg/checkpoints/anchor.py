"""Anchors as files: windows and strengths per unit of memory, one safetensors file.

    log_tau.LAYER        (units,) logarithm of the windows, tokens
    log_strength.LAYER   (units,) logarithm of the strengths

The metadata holds the format's version and the age, in tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from prosg.backbones import BackboneModule
from prosg.checkpoints.tensors import read_safetensors
from prosg.checkpoints.weights import check_finite
from prosg.model.anchor import StateAnchor
from prosg.utils.device import dtype_name
from prosg.utils.io import CheckpointError, written_whole
from prosg.utils.spelling import meant_path

__all__ = ["ANCHOR_FILE", "load_anchor", "save_anchor"]

ANCHOR_FILE = "anchor.safetensors"
"""The file's name in the output folder of a training."""
FORMAT = "prosg-anchor-1"
STRONGEST = 50.0
"""Greatest logarithm of a strength: e^50 is far beyond any, and still a number."""


def save_anchor(anchor: StateAnchor, path: str | Path, *, overwrite: bool = False) -> None:
    """Writes an anchor's windows, strengths and age."""
    tensors = {name: tensor.detach().cpu().float().clone() for name, tensor in anchor.state_dict().items()}
    with written_whole(Path(path), overwrite=overwrite) as temporary:
        save_file(tensors, temporary, metadata={"format": FORMAT, "age": repr(anchor.age)})


def load_anchor(path: str | Path, backbone: BackboneModule) -> StateAnchor:
    """Reads an anchor for a backbone, on the backbone's device.

    Args:
        path: The file, or the output folder of a training that has one.
        backbone: What it will hold prompts for.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: for a file of another kind, a damaged one, and one for another backbone.
    """
    path = Path(path) / ANCHOR_FILE if Path(path).is_dir() else Path(path)
    if not path.is_file():
        near = meant_path(path)
        raise FileNotFoundError(f"{path}: no such file{near}; an anchor is written by trainings that have one")
    metadata, tensors = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not an anchor; prosg train anchor writes one")
    try:
        anchor = StateAnchor(backbone, age=float(metadata.get("age", "")))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    expected = anchor.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        shapes = [tuple(some[name].shape) if name in some else "nothing" for some in (tensors, expected)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"{path}: {name} has {shapes[0]}, expected {shapes[1]} for this backbone")
    check_finite(path, {name: tensor for name, tensor in tensors.items() if not name.startswith("log_tau")}, STRONGEST)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} is {dtype_name(tensor.dtype)}; windows and strengths are numbers")
        if name.startswith("log_tau") and bool((tensor.isnan() | (tensor < 0)).any()):
            raise CheckpointError(f"{path}: {name} has windows below 1 token")
    with torch.no_grad():
        anchor.load_state_dict(tensors)
    return anchor
