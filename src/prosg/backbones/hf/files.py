"""Reading and writing folders of transformers' models. transformers is imported on first use.

Only files of the folder are read: nothing is fetched from the hub, and code that comes with a model is never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from prosg.backbones.config_json import read_config
from prosg.backbones.hf.cache import TransformersModel
from prosg.backbones.hf.kernels import kernel_names
from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.hf.sites import HF_SITES, LANGUAGE_MODELS
from prosg.backbones.hf.windows import windowed_config
from prosg.tokenizers.files import TOKENIZER_CONFIG, TOKENIZER_FILES, copy_tokenizer
from prosg.utils.io import CheckpointError, written_whole
from prosg.utils.outside import plain_reason
from prosg.utils.replaceable import FolderKind

__all__ = [
    "MODEL_FOLDER",
    "from_pretrained",
    "hf_type",
    "load_hf",
    "load_hf_model",
    "quiet",
    "save_hf",
    "written_suffix",
]

MODEL_FOLDER = FolderKind(
    "a model",
    "config.json",
    ("model_type",),
    (
        "model*.safetensors",
        "model.safetensors.index.json",
        "generation_config.json",
        TOKENIZER_CONFIG,
        "chat_template.jinja",
        *TOKENIZER_FILES,
    ),
)
"""A folder of a model in transformers' layout, native or not."""
PTH = ".pth"
OTHER_FILES = (".bin", ".pt", ".safetensors", ".st", ".gguf")
"""Suffixes of files of weights that are not written, so that no folder is called so."""
MASKS = re.compile(r"\.(attn|attention)\.(masked_)?bias$")
"""Causal masks, which earlier versions of transformers stored beside the weights."""


def hf_type(path: str | Path, names: Sequence[str] = ()) -> str:
    """Returns the model_type of what transformers loads from a folder; "" for any other path.

    Args:
        path: The folder.
        names: Projections that updates act on. Without them only the types of `HF_SITES` are for transformers.
    """
    config = Path(path) / "config.json"
    model_type = str(read_config(config).get("model_type", "")) if config.is_file() else ""
    model_type = LANGUAGE_MODELS.get(model_type, model_type)
    return model_type if model_type in HF_SITES or names else ""


def load_hf(
    path: str | Path,
    names: Sequence[str] = (),
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    kernel: str = "auto",
    sliding_window: int = 0,
) -> HFBackbone:
    """Loads a backbone from a folder.

    Args:
        path: The folder.
        names: The projections that updates act on; those of `HF_SITES` by default.
        dtype: Type of the weights; that of the folder by default.
        device: Where to put the model.
        kernel: What runs the recurrence; see `HFBackbone`.
        sliding_window: Tokens that every layer's attention sees, in the place of what the folder says; 0: as it says.

    Raises:
        CheckpointError: for a folder that cannot be loaded, or that cannot be a backbone.
        ValueError: for a kernel or a window that this type does not have.
    """
    if kernel not in (allowed := kernel_names(hf_type(path, names))):
        raise ValueError(f"kernel is {kernel!r}, but {path} is run by transformers; allowed: {', '.join(allowed)}")
    model = load_hf_model(path, dtype, sliding_window)
    try:
        backbone = HFBackbone(model, names, kernel, sliding_window)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return backbone.to(device)


def load_hf_model(path: str | Path, dtype: torch.dtype | None = None, sliding_window: int = 0) -> TransformersModel:
    """Loads transformers' model of a folder, with a window (`windowed_config`) if it is not 0.

    Raises:
        CheckpointError: unless every weight comes from the folder.
        ValueError: for a window that this type does not have.
    """
    from transformers import AutoConfig

    options: dict[str, Any] = {"dtype": dtype or "auto"}
    if sliding_window:
        with quiet(), _explained(path):
            config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        options["config"] = windowed_config(config, sliding_window)
    return from_pretrained(path, path, **options)


def from_pretrained(file: str | Path, path: str | Path, **options: Any) -> TransformersModel:
    """Loads a causal language model of transformers from files.

    Args:
        file: What is loaded, for errors.
        path: The folder.
        options: Further arguments of transformers' `from_pretrained`.

    Raises:
        CheckpointError: unless every weight comes from there, and all that is there is a weight, of the same shape.
    """
    from transformers import AutoModelForCausalLM

    with quiet(), _explained(file):
        model, loading = AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
            **options,
        )
    wrong = {
        "missing": loading["missing_keys"],
        "mismatched": [_mismatch(*key) for key in loading["mismatched_keys"]],
        "surplus": [name for name in loading["unexpected_keys"] if not MASKS.search(name)],
    }
    for what, names in wrong.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            listed = f"{', '.join(sorted(names)[:3])}{more}"
            raise CheckpointError(f"{file}: {what} tensors: {listed}; its configuration describes others")
    if model.dtype == torch.float64:  # the product that computes experts faster takes narrower types alone
        model.set_experts_implementation("eager")
    return model


def _mismatch(name: str, stored: Sequence[int], expected: Sequence[int]) -> str:
    return f"{name} is {'x'.join(map(str, stored))}, expected {'x'.join(map(str, expected))}"


def written_suffix(path: str | Path) -> str:
    """Returns ".pth" for a path that names such a file, in any case, and "" for one that names a folder.

    Raises:
        CheckpointError: for other files of weights, and for an empty path.
    """
    if not str(path):
        raise CheckpointError("the path to write is empty; name a .pth file or a folder")
    suffix = Path(path).suffix.lower()
    if suffix == ".gguf":
        raise CheckpointError(f"{path}: such files are written by: prosg export MODEL --gguf-model FILE")
    if suffix in OTHER_FILES:
        raise CheckpointError(f"{path}: cannot write {suffix}; allowed: a .pth file or a folder")
    return suffix if suffix == PTH else ""


@contextmanager
def save_hf(
    model: TransformersModel, path: Path, *, tokenizer: Path | None = None, overwrite: bool = False
) -> Iterator[Path]:
    """Writes a folder that transformers loads; it is there once the block that may add files to it has succeeded.

    Args:
        model: The model, of transformers.
        path: The folder.
        tokenizer: A tokenizer's file to copy into it, with its settings (`copy_tokenizer`).
        overwrite: Whether a folder of a model at `path` is replaced.

    Yields:
        The folder under its temporary name.

    Raises:
        CheckpointError: where `path` is named like a file.
        FileExistsError: where `path` exists and may not be replaced.
    """
    if written_suffix(path):
        raise CheckpointError(
            f"{path}: a model of type {model.config.model_type} is a folder of transformers; its tensors have no other "
            "layout here"
        )
    with written_whole(path, overwrite=overwrite, kind=MODEL_FOLDER) as temporary, quiet():
        model.save_pretrained(temporary)
        if tokenizer:
            copy_tokenizer(tokenizer, temporary)
        yield temporary


@contextmanager
def _explained(file: str | Path) -> Iterator[None]:
    """Turns what transformers raises, errors of many types, into a CheckpointError that names the file."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {plain_reason(error)}"
        if isinstance(error, KeyError):  # its text is the key alone
            reason = f"config.json names {plain_reason(error)}, which transformers does not have"
        raise CheckpointError(f"{file}: transformers cannot load it: {reason}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' progress bars and warnings; all that matters is raised."""
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
