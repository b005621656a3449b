"""Loading a model by its name: a backbone, an adapter, a training's output folder, a name on the hub, or "demo"."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from prosg.backbones.quantised import QUANTISATIONS, quantise
from prosg.checkpoints.adapter import CONFIG_NAME, adapter_config, is_adapter, load_adapter
from prosg.checkpoints.backbone import load_backbone
from prosg.checkpoints.hub import local_path
from prosg.checkpoints.special import read_special, special_from_dict
from prosg.checkpoints.templates import read_template
from prosg.model.prosg import ProSG
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.files import BY_VOCABULARY_SIZE, WORLD, load_tokenizer, tokenizer_beside
from prosg.tokenizers.special import RWKV_SPECIAL
from prosg.utils import distributed
from prosg.utils.device import parse_device, parse_dtype
from prosg.utils.io import CheckpointError
from prosg.utils.spelling import check_known

__all__ = ["demo_model", "load_model", "require_tokenizer", "trained_model"]


def load_model(
    model: str | Path,
    *,
    base: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    kernel: str = "auto",
    target_modules: Sequence[str] = (),
    end_token: Sequence[int] | int = (),
    begin_token: str | int = "",
    quantize: str = "none",
    sliding_window: int = 0,
) -> ProSG:
    """Loads a model with its tokenizer, special tokens and chat template, in evaluation mode.

    Args:
        model: A backbone (a .pth or .st file, or a folder), an adapter folder, the output folder of a finished
            training, a name on the Hugging Face hub, or "demo": the small trained model that comes with the package.
        base: The adapter's backbone, if it is not where the adapter says.
        tokenizer: "world", a tokenizer.json, an RWKV vocabulary, or a folder with one of these. By default that of the
            adapter, then the one beside the backbone's weights, then World if the vocabulary has World's size (which is
            printed on stderr), else none.
        dtype: Type of the backbone's weights, also by name (fp32, bf16, fp16, fp64); that of the file by default.
        device: Where to put the model; "auto" is a CUDA device where there is one.
        kernel: Implementation of the recurrence; "auto" is the fastest that can run.
        target_modules: Projections that an update may act on, for a backbone that transformers runs. An adapter knows
            its own, and a native backbone has fixed ones.
        end_token: Ids that end an answer; by default those of the adapter, then of the model's files, else 0.
        begin_token: Id that stands before every prompt, or "none"; likewise, else none.
        quantize: "int8" keeps the backbone's matrices in 8 bits, for generating with native backbones; or "none".
        sliding_window: Tokens that attention sees in every layer of a Llama-like backbone that transformers runs, whose
            memory is then bounded: the prompt is forgotten when it leaves the window. 0: as the model's files say, or
            an adapter that was trained with one.

    Raises:
        CheckpointError, FileNotFoundError: naming the file and what is wrong with it.
        ValueError: for a tokenizer that does not fit the model or its training, for a base without an adapter, and for
            names and ids that are not there, or cannot run here.
    """
    dtype = parse_dtype(dtype)
    device = parse_device(device)
    path = demo_model() if str(model) == "demo" else trained_model(local_path(model))
    adapter = adapter_config(path) if is_adapter(path) else {}
    if is_adapter(path):
        if target_modules:
            raise ValueError(f"target_modules is {target_modules!r}, but {path} is an adapter, which names its own")
        loaded, where = load_adapter(
            path, base=base, dtype=dtype, device=device, kernel=kernel, sliding_window=sliding_window
        )
    else:
        if base is not None:
            raise ValueError(f"{path} is not an adapter folder (it has no {CONFIG_NAME}), so it has no base")
        backbone = load_backbone(
            path,
            dtype=dtype,
            device=device,
            kernel=kernel,
            target_modules=target_modules,
            sliding_window=sliding_window,
        )
        loaded, where = ProSG(backbone), path
    loaded.base = str(where)
    source = tokenizer or _own_tokenizer(path, adapter) or tokenizer_beside(where) or _tokenizer_by_size(loaded)
    if source is not None:
        loaded.tokenizer = load_tokenizer(source)
        _check_vocabulary(loaded, loaded.tokenizer, source)
        trained_with = adapter.get("tokenizer_fingerprint")
        if trained_with and trained_with != loaded.tokenizer.fingerprint:
            raise ValueError(f"{source}: not the tokenizer that {path} was trained with; leave out --tokenizer")
    special = special_from_dict(adapter, str(path / CONFIG_NAME))
    if special is None and adapter:
        special = RWKV_SPECIAL  # an adapter of version 0.1, which knew no others
    if special is None:
        special = read_special(Path(where), loaded.tokenizer, loaded.backbone.config.vocab_size)
    special = special.changed(end_token, str(begin_token))
    loaded.special = special.check(loaded.backbone.config.vocab_size, str(path))
    loaded.own_template = read_template(Path(where), loaded.tokenizer)
    if adapter and (trained := read_template(path, loaded.tokenizer, tokens_in=Path(where)).known) is not None:
        loaded.own_template = loaded.own_template._replace(trained=trained)
    check_known("quantize", [quantize], QUANTISATIONS)
    if quantize == "int8":
        quantise(loaded.backbone)
    if kernel != "auto":
        _ = loaded.backbone.kernel_in_use  # says why it cannot run
    loaded.eval()
    return loaded


def _own_tokenizer(path: Path, adapter: dict[str, Any]) -> str | Path | None:
    """Returns the tokenizer named in an adapter's configuration, or the file in the folder."""
    name = adapter.get("tokenizer", "")
    if name not in ("", WORLD):
        raise CheckpointError(f"{path / CONFIG_NAME}: tokenizer is {name!r}, allowed: {WORLD!r}, or a file beside it")
    return WORLD if name else tokenizer_beside(path)


def _tokenizer_by_size(model: ProSG) -> str | None:
    """Picks World for a model with a vocabulary of its size."""
    size = model.backbone.config.vocab_size
    if BY_VOCABULARY_SIZE.get(size) != WORLD:
        return None
    distributed.print_once(f"tokenizer: World (picked by the vocabulary size {size}; another with --tokenizer)")
    return WORLD


def _check_vocabulary(model: ProSG, tokenizer: Tokenizer, source: str | Path) -> None:
    size = model.backbone.config.vocab_size
    if tokenizer.vocab_size > size:
        raise ValueError(
            f"{source}: {tokenizer.vocab_size} ids, by the greatest, but the model's vocabulary has {size}"
        )


def require_tokenizer(model: ProSG, name: str | Path) -> Tokenizer:
    """The model's tokenizer.

    Args:
        model: Any model.
        name: Its name, for the error.

    Raises:
        ValueError: if it has none, with the one usual for its vocabulary size if there is one.
    """
    if model.tokenizer is not None:
        return model.tokenizer
    size = model.backbone.config.vocab_size
    usual = BY_VOCABULARY_SIZE.get(size)
    which = f"--tokenizer {usual}: models with a vocabulary of {size} use that" if usual else "--tokenizer"
    raise ValueError(f"{name}: no tokenizer lies beside it; name one with {which}")


def trained_model(path: str | Path) -> Path:
    """Returns the adapter or model in a finished training's output folder, and any other path unchanged."""
    path = Path(path)
    if (path / "result.json").is_file():
        for name in ("adapter", "model"):
            if (path / name).is_dir():
                return path / name
    return path


def demo_model() -> Path:
    """Returns the adapter that comes with the package; its backbone lies beside it."""
    return Path(str(files("prosg") / "demo" / "assets" / "plus"))
