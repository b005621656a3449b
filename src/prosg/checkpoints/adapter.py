"""Adapters: the folder of a trained synthesizer.

prosg_config.json         the synthesizer's options, the path of its backbone (base), and the fingerprints of
                          backbone and tokenizer, and the special tokens
prosg_model.safetensors   the synthesizer's weights
tokenizer.json            the tokenizer, or rwkv_vocab_v20230424.txt; neither for World, which the config names
chat_template.jinja       the chat template that it was trained with; its special tokens are in tokenizer_config.json
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model as load_tensors
from safetensors.torch import save_model as save_tensors

from prosg.backbones import BackboneModule
from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.backbone import load_backbone
from prosg.checkpoints.fingerprints import backbone_fingerprint, checkpoint_fingerprint, sampled_fingerprint
from prosg.checkpoints.hub import local_path
from prosg.checkpoints.special import special_to_dict
from prosg.checkpoints.templates import TEMPLATE_FILE, write_template
from prosg.checkpoints.tensors import read_tensors
from prosg.checkpoints.weights import check_finite
from prosg.core.checks import GREATEST
from prosg.model.config import ProSGConfig
from prosg.model.familiarity import Familiarity
from prosg.model.prosg import ProSG
from prosg.model.synthesizer import Synthesizer
from prosg.tokenizers.files import TOKENIZER_CONFIG, TOKENIZER_FILES, WORLD
from prosg.tokenizers.world import WORLD_FINGERPRINT
from prosg.utils.io import CheckpointError, read_json, written_whole
from prosg.utils.replaceable import FolderKind, check_replaceable
from prosg.utils.values import shown

__all__ = ["CONFIG_NAME", "adapter_base", "adapter_config", "is_adapter", "load_adapter", "load_module", "save_adapter"]

CONFIG_NAME, WEIGHTS_NAME = "prosg_config.json", "prosg_model.safetensors"
VERSION = 2
"""Of the fingerprints in an adapter; the first were of samples of the weights."""
ADAPTER_FOLDER = FolderKind(
    "an adapter", CONFIG_NAME, ("base",), (WEIGHTS_NAME, TEMPLATE_FILE, TOKENIZER_CONFIG, *TOKENIZER_FILES)
)
WINDOW = "sliding_window"
"""Key of the window that the backbone was read with, where it was not the backbone's own."""
ABOUT = ("base", "base_fingerprint", "tokenizer", "tokenizer_fingerprint")
"""Keys of the configuration that are not the module's and are texts."""
NOT_THE_MODULES = (*ABOUT, WINDOW, "fingerprint_version", "end_token", "begin_token")


def is_adapter(path: str | Path) -> bool:
    """Returns whether a path is an adapter folder."""
    return (Path(path) / CONFIG_NAME).is_file()


def _adapter_folder(folder: str | Path) -> Path:
    """Returns the path of an adapter. Raises CheckpointError, FileNotFoundError for what is none."""
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such file or folder")
    if not is_adapter(folder):
        raise CheckpointError(f"{folder}: not an adapter folder: it has no {CONFIG_NAME}")
    return folder


def adapter_base(folder: str | Path) -> Path:
    """Returns the path of an adapter's backbone, where the adapter says.

    Raises:
        CheckpointError: for a damaged configuration.
        FileNotFoundError: if the backbone is not there.
    """
    return _find_base(Path(folder), adapter_config(Path(folder))["base"])


def adapter_config(folder: Path) -> dict[str, Any]:
    """Reads an adapter's configuration; the keys of `ABOUT` are there, "" where the file has none.

    Raises:
        CheckpointError: for what is no JSON object of finite numbers, and for one of these keys that is no text.
    """
    values = dict.fromkeys(ABOUT, "") | read_json(folder / CONFIG_NAME, finite=True)
    for key in ABOUT:
        if not isinstance(values[key], str):
            raise CheckpointError(f"{folder / CONFIG_NAME}: {key} is {shown(values[key])}; it must be text")
    return values


def save_adapter(model: ProSG, folder: str | Path, *, base: str | Path | None = None, overwrite: bool = False) -> None:
    """Writes the synthesizer of a model, and which backbone it belongs to.

    Args:
        model: The model; its backbone is not written.
        folder: What to write.
        base: Path of the backbone, absolute or relative to the folder, or else to the working directory; `model.base`,
            which is relative to the latter, by default. The file names it absolutely or from the folder.
        overwrite: Replace an adapter that is there.

    Raises:
        ValueError: for a model without a synthesizer, or with one of another class, which has no such configuration;
            and for one that could not be loaded again: the backbone is not where `base` says, or has other weights.
        FileExistsError: for a folder that may not be replaced.
    """
    if model.synthesizer is None:
        raise ValueError("this model has no synthesis module to save")
    if not isinstance(model.synthesizer, Synthesizer):
        name = type(model.synthesizer).__name__
        raise ValueError(f"{name} is not the package's Synthesizer and is no adapter; save its state_dict() instead")
    check_replaceable(folder, overwrite=overwrite, kind=ADAPTER_FOLDER)
    place, named = _place_of_base(Path(folder), model.base if base is None else str(base), here_first=base is None)
    fingerprint = _base_fingerprint(model, place)
    tokenizer = model.tokenizer
    is_world = tokenizer is not None and tokenizer.fingerprint == WORLD_FINGERPRINT  # 1 MB that everyone has
    config = {
        **model.synthesizer.config.to_dict(),
        **({WINDOW: window} if (window := _window(model.backbone)) else {}),
        "base": named,
        "base_fingerprint": fingerprint,
        "fingerprint_version": VERSION,
        "tokenizer": WORLD if is_world else "",
        "tokenizer_fingerprint": tokenizer.fingerprint if tokenizer is not None else "",
        **special_to_dict(model.special),
    }
    with written_whole(Path(folder), overwrite=overwrite, kind=ADAPTER_FOLDER) as temporary:
        temporary.mkdir()
        save_tensors(model.synthesizer, str(temporary / WEIGHTS_NAME), metadata={"format": "pt"})  # a shared stack once
        if tokenizer is not None and not is_world:
            tokenizer.save(temporary)
        if model.own_template.trained is not None:
            write_template(model.own_template.trained, temporary)
        (temporary / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _place_of_base(folder: Path, base: str, *, here_first: bool) -> tuple[Path, str]:
    """Returns where an adapter's backbone is, and the path that finds it from any working directory.

    Args:
        folder: The adapter's, which need not be there yet.
        base: The backbone's path.
        here_first: Look from the working directory before the folder.

    Raises:
        ValueError: where it is not there: the adapter could not be loaded.
    """
    if not base:
        raise ValueError(
            "not saved: an adapter names its backbone, and this model's lies in no file (model.base is empty); write "
            "it with save_backbone, and give its path as base"
        )
    real = os.path.realpath(folder)
    places = [
        (Path(os.path.realpath(folder / base)), base),
        (Path(base), os.path.relpath(os.path.realpath(base), real)),
    ]
    for place, stored in reversed(places) if here_first else places:
        if place.exists():
            return place, base if Path(base).is_absolute() else stored
    raise ValueError(f"not saved: the backbone {base} is not there; write it first, or give its path as base")


def _base_fingerprint(model: ProSG, where: Path) -> str:
    """The fingerprint of an adapter's backbone in its file. Raises ValueError where it is another than the model's."""
    window = _window(model.backbone)
    stored, own = checkpoint_fingerprint(where, window), backbone_fingerprint(model.backbone)
    config = model.prosg_config
    if own != stored and model.dtype.itemsize < 4 and config is not None:  # in memory it may be narrower
        sites = config.target_modules
        narrowed = load_backbone(where, dtype=model.dtype, target_modules=sites, sliding_window=window)
        own = stored if own == backbone_fingerprint(narrowed) else own
    if own != stored:
        raise ValueError(
            f"not saved: the model's backbone is not that of {where} (its weights were changed), so the adapter could "
            "not be loaded; write it with save_backbone, and give its path as base"
        )
    return stored


def _window(backbone: BackboneModule) -> int:
    """The window that a backbone was read with in the place of its own; 0 for none."""
    return backbone.sliding_window if isinstance(backbone, HFBackbone) else 0


def load_module(model: ProSG, folder: str | Path) -> None:
    """Loads an adapter's weights into the synthesizer of a model, whatever backbone they were trained on.

    What it says of prompts that it knows is left out: that belongs to its training.

    Args:
        model: With a synthesizer of the same options and sizes.
        folder: The adapter.

    Raises:
        CheckpointError: for a damaged adapter, and one that does not fit, naming the options that differ.
    """
    folder = _adapter_folder(folder)
    assert isinstance(model.synthesizer, Synthesizer)
    stored, own = adapter_config(folder), model.synthesizer.config.to_dict()
    theirs = _module_config(folder, {name: value for name, value in stored.items() if name not in NOT_THE_MODULES})
    differing = [
        f"{name} is {shown(value)}, here {shown(own[name])}"
        for name, value in theirs.to_dict().items()
        if (set(value) != set(own[name]) if name == "target_modules" else value != own[name])
    ]
    if differing:
        raise CheckpointError(f"{folder}: a module of other options: {'; '.join(differing)}")
    _load_weights(model.synthesizer, folder / WEIGHTS_NAME)
    model.synthesizer.familiarity = None


def _module_config(folder: Path, values: dict[str, Any]) -> ProSGConfig:
    """Reads the module's options. Raises CheckpointError for what they cannot be."""
    try:
        return ProSGConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG_NAME}: {error}") from None


def load_adapter(
    folder: str | Path,
    *,
    base: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    kernel: str = "auto",
    sliding_window: int = 0,
) -> tuple[ProSG, Path]:
    """Loads an adapter's synthesizer and its backbone; `load_model` adds the tokenizer.

    Args:
        folder: The adapter.
        base: Where the backbone is, if not where the adapter says.
        dtype: Type of the backbone's weights, as in `load_backbone`.
        device: Where to put the model.
        kernel: Implementation of the recurrence.
        sliding_window: Of the backbone; it must be that of the adapter's training, which is the default.

    Returns:
        The model, in evaluation mode, and the path of its backbone.

    Raises:
        CheckpointError: for a damaged adapter, and for another backbone than that of its training.
        ValueError: for another window than that of its training.
        FileNotFoundError: if a file of the adapter, or the backbone, is not there.
    """
    folder = _adapter_folder(folder)
    values = adapter_config(folder)
    stored_base, base_fingerprint, *_ = (str(values.pop(key)) for key in ABOUT)  # the tokenizer is for load_model
    version = values.pop("fingerprint_version", 1)
    if version not in range(1, VERSION + 1):
        raise CheckpointError(
            f"{folder / CONFIG_NAME}: fingerprint_version is {shown(version)}; known are 1 to {VERSION}"
        )
    window = values.pop(WINDOW, 0)
    if not isinstance(window, int) or isinstance(window, bool) or window < 0:
        raise CheckpointError(f"{folder / CONFIG_NAME}: {WINDOW} is {shown(window)}; it must be a number of tokens")
    if sliding_window not in (0, window):
        trained = f"with a window of {window}" if window else "without one"
        raise ValueError(f"sliding_window is {sliding_window}, but {folder} was trained {trained}; leave it out")
    for key in ("end_token", "begin_token"):  # for load_model, too
        values.pop(key, None)
    config = _module_config(folder, values)
    where = local_path(base) if base is not None else _find_base(folder, stored_base)
    backbone = load_backbone(
        where,
        dtype=dtype,
        device=device,
        kernel=kernel,
        target_modules=config.target_modules,
        sliding_window=window,
    )
    # Weights that were narrowed while loading have another fingerprint than their file.
    if version < VERSION:
        fingerprint = sampled_fingerprint(backbone if dtype is None else where)
    else:
        fingerprint = backbone_fingerprint(backbone) if dtype is None else checkpoint_fingerprint(where, window)
    if base_fingerprint and fingerprint != base_fingerprint:
        raise CheckpointError(
            f"{folder}: made for another backbone than {where} (fingerprint {base_fingerprint[:12]}, here "
            f"{fingerprint[:12]}); name the right one with --base"
        )
    model = ProSG(backbone, config)
    assert isinstance(model.synthesizer, Synthesizer)
    _load_weights(model.synthesizer, folder / WEIGHTS_NAME)
    model.synthesizer.to(device)
    return model.eval(), where


def _load_weights(synthesizer: Synthesizer, file: Path) -> None:
    tensors = read_tensors(file)  # for its errors, too: only floating-point numbers, in a file that can be read
    if any(name.startswith("familiarity.") for name in tensors):
        synthesizer.familiarity = Familiarity(synthesizer.input_widths)
    try:
        load_tensors(synthesizer, file)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: does not fit {CONFIG_NAME}: {str(error).splitlines()[-1].strip()}") from None
    check_finite(file, synthesizer.state_dict(), GREATEST)


def _find_base(folder: Path, base: str) -> Path:
    """Resolves the backbone's path from the adapter's folder, then from the working directory."""
    for candidate in (folder / base, Path(base)):
        if base and candidate.exists():
            return candidate
    raise FileNotFoundError(f"{folder}: its backbone {base or '(unnamed)'} is not there; say where with --base")
