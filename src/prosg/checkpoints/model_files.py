"""The files that a model is loaded from, by the part that each plays, and the hashes of their contents."""

from __future__ import annotations

from pathlib import Path

from prosg.checkpoints.adapter import adapter_base, is_adapter
from prosg.checkpoints.load import demo_model, trained_model
from prosg.checkpoints.native_reader import weight_files
from prosg.checkpoints.special import GENERATION_CONFIG
from prosg.checkpoints.templates import TEMPLATE_FILE
from prosg.tokenizers.files import TOKENIZER_CONFIG, WORLD, tokenizer_beside
from prosg.tokenizers.world import world_file
from prosg.utils.file_hashes import FileHashes

__all__ = ["model_files", "model_hashes"]


def model_hashes(
    hashes: FileHashes, model: str | Path, base: str | Path | None = None, tokenizer: str | Path | None = None
) -> dict[str, list[str]]:
    """The hashes of `model_files`, by part: equal for two models exactly where the contents of their files are."""
    return {part: hashes.of_all(files) for part, files in model_files(model, base, tokenizer).items()}


def model_files(
    model: str | Path, base: str | Path | None = None, tokenizer: str | Path | None = None
) -> dict[str, list[Path]]:
    """The files that `load_model` reads, as far as they exist: what is missing or damaged is told by loading.

    Args:
        model: A backbone, an adapter, the output folder of a training, or "demo". A name of the hub has no files here.
        base: The adapter's backbone, if it is not where the adapter says.
        tokenizer: "world", a file or a folder, if it is not the model's own.

    Returns:
        "backbone", "adapter" and "tokenizer" -> files, in a fixed order.
    """
    path = demo_model() if str(model) == "demo" else trained_model(model)
    own = (*path.glob("prosg_*"), path / TEMPLATE_FILE, path / TOKENIZER_CONFIG)
    adapter = sorted(file for file in own if file.is_file()) if is_adapter(path) else []
    backbone = path
    if adapter:
        try:
            backbone = adapter_base(path) if not base else Path(base)
        except (ValueError, OSError):
            backbone = Path(base or "")
    files = {
        "backbone": _backbone_files(backbone),
        "adapter": adapter,
        "tokenizer": [_tokenizer_file(path, backbone, tokenizer)],
    }
    return {part: [file for file in some if file.is_file()] for part, some in files.items()}


SAID = ("config.json", GENERATION_CONFIG, TOKENIZER_CONFIG, TEMPLATE_FILE)
"""Files of a folder that say what its weights, special tokens and chat template are."""


def _backbone_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        return [*(path / name for name in SAID), *weight_files(path)]
    except (ValueError, OSError):
        return [path / name for name in SAID]


def _tokenizer_file(path: Path, backbone: Path, tokenizer: str | Path | None) -> Path:
    """In the order of `load_model`, which takes World where nothing is named and nothing lies beside the model."""
    if tokenizer and str(tokenizer) != WORLD:
        return tokenizer_beside(tokenizer) or Path(tokenizer) if Path(tokenizer).is_dir() else Path(tokenizer)
    beside = None if tokenizer else tokenizer_beside(path) or tokenizer_beside(backbone)
    return beside or world_file()
