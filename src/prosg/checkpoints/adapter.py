"""Models and encoded prompts in and out of files.

    adapter/    prosg_config.json         the module's options, its base, the base's and the tokenizer's fingerprint
                prosg_model.safetensors   the module's weights
                tokenizer.json            its tokenizer, unless it is World, which prosg_config.json names
    x.safetensors   an encoded prompt: state, update, last logits; metadata names the model that made it

A model is named by a backbone (a .pth or a folder), an adapter folder, a finished training's output folder, a name on
the Hugging Face hub (`prosg.hub`), or "demo": the small trained model that comes with the package.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file, save_model
from safetensors.torch import load_model as load_tensors
from torch import nn

from prosg.checkpoints.backbone import fingerprint, fingerprint_file, load_backbone
from prosg.checkpoints.hub import local_path
from prosg.checkpoints.tensors import CheckpointError, read_json
from prosg.checkpoints.weights import check_finite
from prosg.core.encoded import EncodedPrompt, flatten, unflatten
from prosg.core.update import check_update
from prosg.model.prosg import ProSG
from prosg.tokenizers.bpe import BY_VOCABULARY_SIZE, WORLD, AnyTokenizer, load_tokenizer, tokenizer_beside
from prosg.tokenizers.world import WORLD_FINGERPRINT
from prosg.training.config import ProSGConfig
from prosg.utils.io import written_whole

__all__ = [
    "demo_model",
    "hash_weights",
    "is_adapter",
    "load_adapter",
    "load_encoded",
    "load_model",
    "model_fingerprint",
    "need_tokenizer",
    "save_adapter",
    "save_encoded",
    "trained_in",
]

CONFIG, WEIGHTS = "prosg_config.json", "prosg_model.safetensors"
ENCODED_FORMAT = "prosg-encoded-1"


def demo_model() -> Path:
    """The adapter that comes with the package; its backbone lies beside it."""
    return Path(str(files("prosg") / "demo" / "assets" / "plus"))


def is_adapter(path: str | Path) -> bool:
    """Whether this folder holds an adapter."""
    return (Path(path) / CONFIG).is_file()


def load_model(
    model: str | Path,
    *,
    base: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    kernel: str = "auto",
    target_modules: Sequence[str] = (),
) -> ProSG:
    """A model by its name: a backbone, an adapter folder, a training's output folder, a hub's name, or "demo".

    Args:
        model: What to load.
        base: The adapter's backbone, where it is not where the adapter says.
        tokenizer: "world", a tokenizer.json, an RWKV vocabulary, or a folder with one; by default the adapter's, the
            one beside the backbone's weights, or, said on stderr, World for a vocabulary of its size.
        dtype: Type of the backbone's weights; the file's own by default.
        device: Where to put it.
        kernel: Implementation of the recurrence.
        target_modules: Projections that an update may act on, for a backbone that transformers runs; an adapter knows
            its own.

    Raises:
        CheckpointError, FileNotFoundError: naming the file and what is wrong with it.
        ValueError: where a tokenizer has more tokens than the model.
    """
    path = demo_model() if str(model) == "demo" else trained_in(local_path(model))
    if is_adapter(path):
        loaded, where = load_adapter(path, base=base, dtype=dtype, device=device, kernel=kernel)
    else:
        if base is not None:
            raise ValueError(f"{path} is not an adapter folder (it has no {CONFIG}), so it has no base")
        backbone = load_backbone(path, dtype=dtype, device=device, kernel=kernel, target_modules=target_modules)
        loaded, where = ProSG(backbone), path
    loaded.base = str(where)
    found = tokenizer or _own_tokenizer(path) or tokenizer_beside(where) or _picked_tokenizer(loaded)
    if found is not None:
        loaded.tokenizer = load_tokenizer(found)
        check_vocabulary(loaded, loaded.tokenizer, found)
        trained_with = read_json(path / CONFIG).get("tokenizer_fingerprint") if is_adapter(path) else None
        if trained_with and trained_with != loaded.tokenizer.fingerprint:
            raise ValueError(f"{found}: not the tokenizer that {path} was trained with; leave out --tokenizer")
    loaded.eval()
    return loaded


def _own_tokenizer(path: Path) -> str | Path | None:
    """An adapter's: the name that it keeps, or the file that lies in its folder."""
    named = read_json(path / CONFIG).get("tokenizer", "") if is_adapter(path) else ""
    if named not in ("", WORLD):
        raise CheckpointError(f"{path / CONFIG}: tokenizer is {named!r}, allowed: {WORLD!r}, or a file beside it")
    return named or tokenizer_beside(path)


def _picked_tokenizer(model: ProSG) -> str | None:
    """World for a model of its size."""
    size = model.backbone.config.vocab_size
    if BY_VOCABULARY_SIZE.get(size) != WORLD:
        return None
    print(f"tokenizer: World (picked by the vocabulary size {size}; another with --tokenizer)", file=sys.stderr)
    return WORLD


def need_tokenizer(model: ProSG, name: str | Path) -> None:
    """ValueError where the model called `name` has no tokenizer, saying which one is meant if its size tells."""
    if model.tokenizer is not None:
        return
    size = model.backbone.config.vocab_size
    usual = BY_VOCABULARY_SIZE.get(size)
    which = f"--tokenizer {usual}: models with a vocabulary of {size} use that" if usual else "--tokenizer"
    raise ValueError(f"{name}: no tokenizer lies beside it; name one with {which}")


def trained_in(path: str | Path) -> Path:
    """What a finished training left in its output folder; any other path as it is."""
    path = Path(path)
    if (path / "result.json").is_file():
        for made in ("adapter", "model"):
            if (path / made).is_dir():
                return path / made
    return path


def check_vocabulary(model: ProSG, tokenizer: AnyTokenizer, path: str | Path) -> None:
    """ValueError where the tokenizer has tokens that the model does not know."""
    size = model.backbone.config.vocab_size
    if tokenizer.vocab_size > size:
        raise ValueError(f"{path}: {tokenizer.vocab_size} tokens, but the model's vocabulary has {size}; they must fit")


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


def model_fingerprint(model: ProSG) -> str:
    """Which model made an encoded prompt: the backbone's fingerprint, and a full hash of the module's weights."""
    digest = hashlib.sha256(fingerprint(model.backbone).encode())  # type: ignore[arg-type]
    if model.synthesizer is not None:
        hash_weights(digest, model.synthesizer)
    return digest.hexdigest()


def hash_weights(digest: Any, module: nn.Module) -> None:
    """Put all names and values of a module into a hash."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


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
