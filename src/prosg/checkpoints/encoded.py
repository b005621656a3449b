"""Encoded prompts as files: state, update and last logits, in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import State
from prosg.core.update import LowRank, Site, Update, check_update
from prosg.model.prosg import ProSG
from prosg.utils.io import CheckpointError, written_whole

__all__ = ["flatten", "load_encoded", "save_encoded", "unflatten"]


def flatten(state: State, update: Update | None) -> dict[str, Tensor]:
    """Flat named tensors: `state.LAYER.NAME`, `update.LAYER.SITE.a` and `.b`."""
    flat: dict[str, Tensor] = {}
    for i, layer in enumerate(state):
        flat |= {f"state.{i}.{name}": leaf.contiguous() for name, leaf in layer._asdict().items()}
    for site, delta in (update or {}).items():
        flat |= {f"update.{site}.a": delta.a.contiguous(), f"update.{site}.b": delta.b.contiguous()}
    return flat


def unflatten(flat: Mapping[str, Tensor], backbone: Backbone) -> tuple[State, Update | None]:
    """The reverse, for states of this backbone; ValueError where a name or a shape does not fit."""
    try:
        empty = backbone.init_state(1)
        state = tuple(
            type(layer)(**{name: flat[f"state.{i}.{name}"] for name in layer._fields}) for i, layer in enumerate(empty)
        )
        for layer, blank in zip(state, empty, strict=True):
            for name, leaf, like in zip(layer._fields, layer, blank, strict=True):
                # An axis that is empty in the beginning grows with the text.
                fits = leaf.dim() == like.dim() and all(
                    size in (0, own) for own, size in zip(leaf.shape[1:], like.shape[1:], strict=True)
                )
                if not fits:
                    raise ValueError(f"{name} has shape {tuple(leaf.shape)}, expected (B, {tuple(like.shape[1:])})")
        update: dict[Site, LowRank] = {}
        for key in flat:
            if key.startswith("update.") and key.endswith(".a"):
                layer_index, name = key.split(".")[1:3]
                update[Site(int(layer_index), name)] = LowRank(flat[key], flat[key[:-1] + "b"])
    except KeyError as error:
        raise ValueError(f"tensor {error} is missing") from None
    return state, update or None


ENCODED_FORMAT = "prosg-encoded-1"


def save_encoded(encoded: EncodedPrompt, model: ProSG, path: str | Path, *, overwrite: bool = True) -> None:
    """Write an encoded prompt as one safetensors file."""
    tensors = flatten(encoded.state, encoded.update) | {"logits": encoded.logits.contiguous()}
    metadata = {"format": ENCODED_FORMAT, "model": model_fingerprint(model)}
    with written_whole(Path(path), overwrite=overwrite) as temporary:
        save_file({name: t.detach().cpu().clone() for name, t in tensors.items()}, temporary, metadata=metadata)


def load_encoded(path: str | Path, model: ProSG) -> EncodedPrompt:
    """Read an encoded prompt. CheckpointError for another model's, or a file that is none."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated, or not a safetensors file ({error})") from None
    if metadata.get("format") != ENCODED_FORMAT:
        raise CheckpointError(
            f"{path}: not an encoded prompt; make one with: prosg encode MODEL --prompt ... --out FILE"
        )
    if metadata.get("model") != model_fingerprint(model):
        raise CheckpointError(f"{path}: made by another model; encode the prompt again with this one")
    device = next(model.parameters()).device
    try:
        if "logits" not in tensors:
            raise ValueError("tensor 'logits' is missing")
        logits = tensors.pop("logits")
        state, update = unflatten({name: tensor.to(device) for name, tensor in tensors.items()}, model.backbone)
        check_update(update or {}, model.backbone.sites, logits.shape[0])
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return EncodedPrompt(state, update, logits.to(device))
