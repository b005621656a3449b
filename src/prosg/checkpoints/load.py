"""A model by its name: a backbone, an adapter folder, a training's output folder, a name on the hub, or "demo"."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from prosg.checkpoints.adapter import CONFIG, is_adapter, load_adapter
from prosg.checkpoints.backbone import load_backbone
from prosg.checkpoints.hub import local_path
from prosg.model.prosg import ProSG
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.files import BY_VOCABULARY_SIZE, WORLD, load_tokenizer, tokenizer_beside
from prosg.utils.io import CheckpointError, read_json

__all__ = ["demo_model", "load_model", "need_tokenizer", "trained_in"]


def demo_model() -> Path:
    """The adapter that comes with the package; its backbone lies beside it."""
    return Path(str(files("prosg") / "demo" / "assets" / "plus"))


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


def check_vocabulary(model: ProSG, tokenizer: Tokenizer, path: str | Path) -> None:
    """ValueError where the tokenizer has tokens that the model does not know."""
    size = model.backbone.config.vocab_size
    if tokenizer.vocab_size > size:
        raise ValueError(f"{path}: {tokenizer.vocab_size} tokens, but the model's vocabulary has {size}; they must fit")
