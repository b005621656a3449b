"""Models and encoded prompts in and out of files.

    adapter/    prosg_config.json         the module's options, its base, the base's and the tokenizer's fingerprint
                prosg_model.safetensors   the module's weights
                tokenizer.json            its tokenizer, unless it is World, which prosg_config.json names
    x.safetensors   an encoded prompt: state, update, last logits; metadata names the model that made it

A model is named by a backbone (a .pth or a folder), an adapter folder, a finished training's output folder, a name on
the Hugging Face hub (`prosg.hub`), or "demo": the small trained model that comes with the package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model as load_tensors
from safetensors.torch import save_model

from prosg.checkpoints.backbone import fingerprint_file, load_backbone
from prosg.checkpoints.fingerprints import fingerprint
from prosg.checkpoints.hub import local_path
from prosg.checkpoints.weights import check_finite
from prosg.model.config import ProSGConfig
from prosg.model.prosg import ProSG
from prosg.tokenizers.files import WORLD
from prosg.tokenizers.world import WORLD_FINGERPRINT
from prosg.utils.io import CheckpointError, read_json, written_whole

__all__ = ["is_adapter", "load_adapter", "save_adapter"]

CONFIG, WEIGHTS = "prosg_config.json", "prosg_model.safetensors"


def is_adapter(path: str | Path) -> bool:
    """Whether this folder holds an adapter."""
    return (Path(path) / CONFIG).is_file()


def save_adapter(model: ProSG, folder: str | Path, *, base: str | Path | None = None, overwrite: bool = False) -> None:
    """Write the module's configuration and weights, naming the base (as given) and the base's fingerprint."""
    if model.synthesizer is None:
        raise ValueError("this model has no synthesis module to save")
    tokenizer = model.tokenizer
    is_world = tokenizer is not None and tokenizer.fingerprint == WORLD_FINGERPRINT  # a megabyte that all have
    config = {
        **model.synthesizer.config.to_dict(),
        "base": str(base) if base is not None else model.base,
        "base_fingerprint": fingerprint(model.backbone),  # type: ignore[arg-type]
        "tokenizer": WORLD if is_world else "",
        "tokenizer_fingerprint": tokenizer.fingerprint if tokenizer is not None else "",
    }
    with written_whole(Path(folder), overwrite=overwrite, marker=CONFIG) as temporary:
        temporary.mkdir()
        save_model(model.synthesizer, str(temporary / WEIGHTS), metadata={"format": "pt"})  # a shared stack once
        if tokenizer is not None and not is_world:
            tokenizer.save(temporary)
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def load_adapter(folder: str | Path, *, base: str | Path | None = None, **options: Any) -> tuple[ProSG, Path]:
    """The model of an adapter folder, and where its backbone was found; options as `load_backbone`'s."""
    folder = Path(folder)
    if not is_adapter(folder):
        raise CheckpointError(f"{folder}: not an adapter folder: it has no {CONFIG}")
    values = read_json(folder / CONFIG)
    named, made_for = (str(values.pop(key, "")) for key in ("base", "base_fingerprint"))
    for key in ("tokenizer", "tokenizer_fingerprint"):  # load_model's
        values.pop(key, None)
    try:
        config = ProSGConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    where = local_path(base) if base is not None else _find_base(folder, named)
    backbone = load_backbone(where, target_modules=config.target_modules, **options)
    # A backbone that was narrowed on the way in has other values than the one that the adapter knows.
    here = fingerprint(backbone) if options.get("dtype") is None else fingerprint_file(where)
    if made_for and here != made_for:
        raise CheckpointError(
            f"{folder}: made for another backbone than {where} (fingerprint {made_for[:12]}, here {here[:12]}); "
            "name the right one with --base"
        )
    model = ProSG(backbone, config)
    assert model.synthesizer is not None
    try:
        load_tensors(model.synthesizer, folder / WEIGHTS)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder / WEIGHTS}: no such file") from None
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: truncated, or not a safetensors file ({error})") from None
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder / WEIGHTS}: does not fit {CONFIG}: {str(error).splitlines()[-1].strip()}"
        ) from None
    check_finite(folder / WEIGHTS, model.synthesizer.state_dict())
    model.synthesizer.to(options.get("device", "cpu"))
    model.eval()
    return model, where


def _find_base(folder: Path, named: str) -> Path:
    """The base as the adapter names it: as a path from the adapter's own folder, or from here."""
    for candidate in (folder / named, Path(named)):
        if named and candidate.exists():
            return candidate
    raise FileNotFoundError(f"{folder}: its backbone {named or '(unnamed)'} is not there; say where with --base")
