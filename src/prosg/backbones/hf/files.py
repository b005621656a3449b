"""Folders of transformers' models: config.json and weights in, and out again. transformers is imported on first use.

Only what lies in the folder is read: nothing comes from the hub, and code that comes with a model is never run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from prosg.backbones.hf.model import HF_SITES, HFBackbone
from prosg.backbones.hf.scan import KERNEL_NAMES
from prosg.tokenizers.files import stored_name
from prosg.utils.io import CheckpointError, read_json, written_whole

__all__ = ["hf_type", "load_hf", "load_hf_model", "save_hf"]


def hf_type(path: str | Path, names: Sequence[str] = ()) -> str:
    """The model_type of a folder that is for transformers to load; "" for any other path.

    Those are the types of `HF_SITES`, and any that transformers knows where `names` pick projections.
    """
    config = Path(path) / "config.json"
    model_type = str(read_json(config).get("model_type", "")) if config.is_file() else ""
    return model_type if model_type in HF_SITES or names else ""


def load_hf(
    path: str | Path,
    names: Sequence[str] = (),
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    kernel: str = "auto",
) -> HFBackbone:
    """A backbone from a folder; dtype None keeps the folder's own type. CheckpointError for what cannot be loaded."""
    if kernel not in (allowed := KERNEL_NAMES.get(hf_type(path, names), ("auto",))):
        raise ValueError(f"kernel is {kernel!r}, but {path} is run by transformers; allowed: {', '.join(allowed)}")
    model = load_hf_model(path, dtype)
    try:
        backbone = HFBackbone(model, names, kernel)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return backbone.to(device)


def load_hf_model(path: str | Path, dtype: torch.dtype | None = None) -> Any:
    """The model of a folder as transformers has it, every weight of which comes from the folder."""
    from transformers import AutoModelForCausalLM

    with _quiet():
        try:
            model, loading = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype or "auto", local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        except Exception as error:  # whatever its many parts raise
            reason = (str(error).splitlines() or [""])[0]
            raise CheckpointError(f"{path}: transformers cannot load it: {type(error).__name__}: {reason}") from None
    for what in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, loading[what])):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(f"{path}: {what.replace('_keys', '')} tensors: {', '.join(names[:3])}{more}")
    return model


def save_hf(backbone: HFBackbone, path: Path, *, tokenizer: Path | None = None, overwrite: bool = False) -> None:
    """Write a folder that transformers loads, with its tokenizer. CheckpointError for the name of a file."""
    if path.suffix in (".pth", ".bin", ".pt", ".safetensors"):
        raise CheckpointError(
            f"{path}: a model of type {backbone.model_type} is a folder of transformers; its tensors have no other "
            "layout here"
        )
    with written_whole(path, overwrite=overwrite, marker="config.json") as temporary, _quiet():
        backbone.model.save_pretrained(temporary)
        if tokenizer:
            shutil.copyfile(tokenizer, temporary / stored_name(tokenizer))


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and errors only: what matters is raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
