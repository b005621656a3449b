"""Encoded prompts as files: state, update, anchor and last logits in one safetensors file.

    state.LAYER.NAME          a tensor of the recurrent state
    update.LAYER.SITE.a, .b   the factors of a site's weight change
    anchor.LAYER.NAME         a tensor of the anchor
    logits                    the prompt's last logits
    limit                     the largest norm of each layer's memory, where it is limited; 0 for none

The metadata holds the format's version and the fingerprint of the model that encoded the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.checkpoints.fingerprints import model_fingerprint
from prosg.checkpoints.tensors import read_safetensors
from prosg.core.checks import check_encoded, check_layers
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import Anchor, State
from prosg.core.update import LowRank, Site, Update, check_update
from prosg.model.anchor import empty_anchor
from prosg.model.prosg import ProSG
from prosg.utils.io import CheckpointError, written_whole
from prosg.utils.spelling import meant_path

__all__ = ["file_tensors", "flatten", "load_encoded", "save_encoded", "unflatten", "unflatten_anchor"]

FORMATS = "prosg-encoded-1", "prosg-encoded-2"
"""Without an anchor, and with one, which the first version would lose silently."""


FACTOR = re.compile(r"(?P<site>update\.(?P<layer>0|[1-9][0-9]{0,5})\.(?P<name>[^.]+))\.[ab]")


def flatten(state: State, update: Update | None, anchor: Anchor | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a state, an update and an anchor by the names they have in files."""
    flat: dict[str, Tensor] = {}
    for part, layers in (("state", state), ("anchor", anchor or ())):
        for i, layer in enumerate(layers):
            flat |= {f"{part}.{i}.{name}": leaf.contiguous() for name, leaf in layer._asdict().items()}
    for site, delta in (update or {}).items():
        flat |= {f"update.{site}.a": delta.a.contiguous(), f"update.{site}.b": delta.b.contiguous()}
    return flat


def file_tensors(encoded: EncodedPrompt) -> dict[str, Tensor]:
    """Returns all tensors of a file of encoded prompts, by their names."""
    tensors = flatten(encoded.state, encoded.update, encoded.anchor) | {"logits": encoded.logits.contiguous()}
    if encoded.limit is not None:
        tensors["limit"] = encoded.limit.contiguous()
    if encoded.known is not None:
        tensors["known"] = encoded.known.to(encoded.logits.dtype)
    return tensors


def unflatten(flat: Mapping[str, Tensor], backbone: Backbone) -> tuple[State, Update | None]:
    """Builds state and update of `flatten`'s tensors. Raises ValueError if they do not fit the backbone."""
    state = _layers(flat, "state", backbone.init_state(1))
    update: dict[Site, LowRank] = {}
    for key in flat:
        if key.startswith("update."):
            match = FACTOR.fullmatch(key)
            if match is None:
                raise ValueError(f"tensor {key!r} is unknown; factors are named update.LAYER.SITE.a and .b")
            names = (f"{match['site']}.{factor}" for factor in "ab")
            update[Site(int(match["layer"]), match["name"])] = LowRank(*(_tensor(flat, name) for name in names))
    return state, update or None


def unflatten_anchor(flat: Mapping[str, Tensor], backbone: Backbone) -> Anchor | None:
    """Builds the anchor of `flatten`'s tensors, if there is one. Raises ValueError if it does not fit the backbone."""
    if not any(key.startswith("anchor.") for key in flat):
        return None
    return _layers(flat, "anchor", empty_anchor(backbone))


def _layers(flat: Mapping[str, Tensor], part: str, empty: State) -> State:
    """The layers of a part, shaped as `empty` but for the rows, and of its types."""
    layers = tuple(
        type(layer)(**{name: _tensor(flat, f"{part}.{i}.{name}") for name in layer._fields})
        for i, layer in enumerate(empty)
    )
    check_layers(part, layers, empty)
    return tuple(
        type(layer)(*(leaf.to(blank.dtype) for leaf, blank in zip(layer, like, strict=True)))
        for layer, like in zip(layers, empty, strict=True)
    )


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in the model's type; what is none stays, to be refused."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _tensor(flat: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in flat:
        raise ValueError(f"tensor {name!r} is missing")
    return flat[name]


def save_encoded(
    encoded: EncodedPrompt, path: str | Path, model: ProSG, *, overwrite: bool = False, fingerprint: str = ""
) -> None:
    """Writes encoded prompts of a model as one safetensors file.

    Args:
        encoded: The prompts.
        path: The file.
        model: What encoded them; the file says so by its fingerprint.
        overwrite: Replace a file that is there.
        fingerprint: The model's, where it is known: to compute it takes seconds for a large model.

    Raises:
        FileExistsError: for what may not be replaced.
        ValueError: for what `load_encoded` would refuse: prompts that another model encoded, where their shapes tell,
            and numbers that are not finite, because weights or memory overflowed.
    """
    tensors = file_tensors(encoded)
    reason = "another model encoded the prompts"
    try:
        unflatten(tensors, model.backbone)
        if encoded.logits.shape[-1] != model.backbone.config.vocab_size:
            raise ValueError(f"there are logits of {encoded.logits.shape[-1]} tokens")
        reason = "the model's weights or its memory have overflowed"
        check_encoded(encoded, encoded.logits.shape[-1])
    except ValueError as error:
        raise ValueError(f"{path}: not written: {error}; {reason}") from None
    metadata = {"format": FORMATS[encoded.anchor is not None], "model": fingerprint or model_fingerprint(model)}
    with written_whole(Path(path), overwrite=overwrite) as temporary:
        save_file({name: t.detach().cpu().clone() for name, t in tensors.items()}, temporary, metadata=metadata)


def load_encoded(path: str | Path, model: ProSG, *, fingerprint: str = "") -> EncodedPrompt:
    """Reads encoded prompts, on the model's device and in its types.

    Args:
        path: The file.
        model: What encoded them.
        fingerprint: As in `save_encoded`.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: for a file of another kind, a damaged one, one that another model wrote, and for numbers that
            are not finite.
    """
    path = Path(path)
    if not path.is_file():
        there = (
            "is a folder; name a file that prosg encode wrote" if path.is_dir() else f"no such file{meant_path(path)}"
        )
        raise FileNotFoundError(f"{path}: {there}")
    metadata, tensors = read_safetensors(path)
    if metadata.get("format") not in FORMATS:
        raise CheckpointError(
            f"{path}: not an encoded prompt; make one with: prosg encode MODEL --prompt ... --out FILE"
        )
    if metadata.get("model") != (fingerprint or model_fingerprint(model)):
        raise CheckpointError(f"{path}: made by another model; encode the prompt again with this one")
    device = next(model.parameters()).device
    try:
        if "logits" not in tensors:
            raise ValueError("tensor 'logits' is missing")
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        logits, known, limit = tensors.pop("logits"), tensors.pop("known", None), tensors.pop("limit", None)
        if known is not None and not bool(((known == 0) | (known == 1)).all()):
            raise ValueError("tensor 'known' has other values than 0 and 1")
        exact = torch.promote_types(model.dtype, torch.float32)
        logits, limit = _as(logits, model.dtype), None if limit is None else _as(limit, exact)
        state, update = unflatten(tensors, model.backbone)
        if update is not None:
            update = {
                site: LowRank(*(factor if factor.dtype == exact else _as(factor, torch.float32) for factor in delta))
                for site, delta in update.items()
            }
        anchor = unflatten_anchor(tensors, model.backbone)
        encoded = EncodedPrompt(state, update, logits, anchor, None if known is None else known != 0, limit)
        check_encoded(encoded, model.backbone.config.vocab_size)
        check_update(update or {}, model.backbone.sites, encoded.batch)
        if unknown := tensors.keys() - flatten(state, update, anchor).keys():
            raise ValueError(f"tensor {min(unknown)!r} is unknown")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return encoded
