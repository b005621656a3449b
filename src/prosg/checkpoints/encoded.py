"""Encoded prompts as files: state, update and last logits in one safetensors file.

    state.LAYER.NAME          a tensor of the recurrent state
    update.LAYER.SITE.a, .b   the factors of a site's weight change
    logits                    the prompt's last logits

The metadata holds the format's version and the fingerprint of the model that encoded the prompt.
"""

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

FORMAT = "prosg-encoded-1"


def flatten(state: State, update: Update | None) -> dict[str, Tensor]:
    """Returns the tensors of a state and an update by the names they have in files."""
    flat: dict[str, Tensor] = {}
    for i, layer in enumerate(state):
        flat |= {f"state.{i}.{name}": leaf.contiguous() for name, leaf in layer._asdict().items()}
    for site, delta in (update or {}).items():
        flat |= {f"update.{site}.a": delta.a.contiguous(), f"update.{site}.b": delta.b.contiguous()}
    return flat


def unflatten(flat: Mapping[str, Tensor], backbone: Backbone) -> tuple[State, Update | None]:
    """Builds state and update of `flatten`'s tensors. Raises ValueError if they do not fit the backbone."""
    try:
        empty = backbone.init_state(1)
        state = tuple(
            type(layer)(**{name: flat[f"state.{i}.{name}"] for name in layer._fields}) for i, layer in enumerate(empty)
        )
        for layer, blank in zip(state, empty, strict=True):
            for name, leaf, like in zip(layer._fields, layer, blank, strict=True):
                # An axis that is empty before the first token grows with the text.
                fits = leaf.dim() == like.dim() and all(
                    expected in (0, size) for size, expected in zip(leaf.shape[1:], like.shape[1:], strict=True)
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


def save_encoded(encoded: EncodedPrompt, model: ProSG, path: str | Path, *, overwrite: bool = True) -> None:
    """Writes encoded prompts of a model as one safetensors file."""
    tensors = flatten(encoded.state, encoded.update) | {"logits": encoded.logits.contiguous()}
    metadata = {"format": FORMAT, "model": model_fingerprint(model)}
    with written_whole(Path(path), overwrite=overwrite) as temporary:
        save_file({name: t.detach().cpu().clone() for name, t in tensors.items()}, temporary, metadata=metadata)


def load_encoded(path: str | Path, model: ProSG) -> EncodedPrompt:
    """Reads encoded prompts, on the model's device.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: for a file of another kind, a damaged one, and one that another model wrote.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: truncated, or not a safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
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
