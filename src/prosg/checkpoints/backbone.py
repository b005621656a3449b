"""Backbones in and out of files.

Native backbones are read and written without importing transformers. Folders of other types are loaded by it
(`prosg.backbones.hf.files`).
"""

from __future__ import annotations

import functools
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from prosg.backbones import BACKBONES, BackboneModule
from prosg.backbones.hf.cache import TransformersModel
from prosg.backbones.hf.files import hf_type, load_hf, load_hf_model, save_hf, written_suffix
from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.hf.sites import check_target_modules
from prosg.backbones.hf.windows import WINDOWED
from prosg.backbones.layouts import Layout
from prosg.backbones.quantised import refuse_quantised
from prosg.backbones.rwkv7 import RWKV7Config
from prosg.checkpoints.gguf_reader import is_gguf, read_gguf
from prosg.checkpoints.native_reader import Checkpoint, native_layouts, read_checkpoint
from prosg.checkpoints.native_writer import write_checkpoint
from prosg.checkpoints.special import read_special, write_special
from prosg.checkpoints.templates import read_template, write_template
from prosg.checkpoints.tensors import check_files, damage_named
from prosg.checkpoints.weights import cast_checked, check_finite
from prosg.data.templates import ChatTemplate
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.files import BY_VOCABULARY_SIZE, WORLD, load_tokenizer, tokenizer_beside, tokenizer_file
from prosg.tokenizers.special import SpecialTokens
from prosg.tokenizers.world import world_file
from prosg.utils.device import parse_dtype
from prosg.utils.io import CheckpointError

__all__ = ["convert", "is_for_transformers", "load_backbone", "save_backbone"]


def load_backbone(
    path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    kernel: str = "auto",
    target_modules: Sequence[str] = (),
    sliding_window: int = 0,
) -> BackboneModule:
    """Loads a backbone.

    Weights whose type does not change stay mapped from the file, copy-on-write: training does not write to it. Every
    value is read once to check that it is finite (4 to 8 GB a second).

    Args:
        path: A `.pth` or `.st` file, or a folder of a native backbone or of transformers.
        dtype: Type of the weights, or its name. By default the file's own, the widest if it has several; but fp16
            becomes fp32, as RWKV's residual stream overflows fp16 in deep models. Tensors of `Layout.keep_wide` are
            never narrowed.
        device: Where to put it.
        kernel: Implementation of the recurrence.
        target_modules: Projections that an update may act on, by the ends of their names, for a model that transformers
            runs; those of `HF_SITES` by default. Native backbones have fixed ones, of which these have to be some.
        sliding_window: Tokens that attention sees in every layer of a Llama-like model, whose state is then bounded; 0
            leaves the model as its files say.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        CheckpointError: if it is damaged, not supported, or too large for the memory that is free.
        ValueError: for a type, a kernel or projections that do not exist, and a window that this type cannot have.
    """
    dtype = parse_dtype(dtype)
    if is_gguf(path):
        raise CheckpointError(f"{path}: a GGUF file; make a folder of it with: prosg convert {path} FOLDER")
    if is_for_transformers(path, target_modules):
        check_files(Path(path))
        with damage_named(Path(path)):
            hf_backbone = load_hf(
                path, target_modules, dtype=dtype, device=device, kernel=kernel, sliding_window=sliding_window
            )
        _check_cast(path, hf_backbone.model, dtype, lambda: load_hf_model(path))
        return hf_backbone
    config, tensors, _, note = read_checkpoint(path)
    _say(path, note)
    _refuse_window(path, sliding_window, config.model_type)
    kind = BACKBONES[config.model_type]
    if dtype is None:
        stored = {tensor.dtype for name, tensor in tensors.items() if not kind.layout.keep_wide.search(name)}
        dtype = functools.reduce(torch.promote_types, stored)
        dtype = torch.float32 if dtype == torch.float16 else dtype
    with torch.device("meta"):
        model = kind.model(config, kernel)
    check_target_modules(target_modules)
    if unknown := [name for name in target_modules if name not in model.site_names]:
        sites = ", ".join(model.site_names)
        raise ValueError(f"{path}: target_modules {unknown} not in this {config.model_type}; it has {sites}")
    model.load_state_dict(cast_checked(path, tensors, _types(tensors, dtype, kind.layout)), assign=True)
    return model.to(device)


def save_backbone(
    model: BackboneModule,
    path: str | Path,
    *,
    tokenizer: str | Path | Tokenizer | None = None,
    special: SpecialTokens | None = None,
    template: ChatTemplate | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a backbone as BlinkDL's file if `path` ends in .pth, else as a folder that transformers loads.

    Args:
        model: What to write. A model that transformers runs is always a folder.
        path: The file or folder.
        tokenizer: A tokenizer, or its file (a `tokenizer.json` or an RWKV vocabulary), written into the folder, with
            the `tokenizer_config.json` that lies beside that file, or beside the .pth file.
        special: Special tokens, written into a folder that does not say them otherwise; a .pth file means RWKV's.
        template: Chat template, written into a folder. What a .pth file has no place for is told on stderr.
        overwrite: Replace what is there.

    Raises:
        ValueError: for a tokenizer's file that is not there.
        CheckpointError: for a path that names another kind of file.
        ValueError: for a quantised model.
        FileExistsError: for what may not be replaced.
    """
    if isinstance(tokenizer, Tokenizer):
        with tempfile.TemporaryDirectory() as folder:
            file = tokenizer.save(folder)
            save_backbone(model, path, tokenizer=file, special=special, template=template, overwrite=overwrite)
        return
    tokenizer = None if tokenizer is None else tokenizer_file(tokenizer)
    if isinstance(model, HFBackbone):
        _save_for_transformers(model.model, path, tokenizer, special, template, overwrite)
        return
    refuse_quantised(model, "saved")
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_checkpoint(Checkpoint(model.config, tensors, tokenizer), Path(path), overwrite, special, template)


def convert(
    src: str | Path,
    dst: str | Path,
    dtype: torch.dtype | str | None = None,
    *,
    layout: str = "",
    sliding_window: int = 0,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint, with its tokenizer, in the layout that `dst` names; see `save_backbone`.

    Special tokens and chat template of a folder are those of the new one. A new folder is whole by itself: a model with
    World's number of tokens and no tokenizer beside it gets World's vocabulary. Without `dtype` it is bit-exact. Models
    that transformers runs have one layout only, and are copied. A GGUF file becomes such a folder, dequantised (fp32
    without `dtype`), if transformers knows its architecture.

    Args:
        src: A file or folder that `load_backbone` opens, or a GGUF file of llama.cpp.
        dst: The file or folder to write.
        dtype: Type of the weights, or its name ("bf16"); that of `src` by default.
        layout: One of the backbone's `FOLDER_LAYOUTS`, by its name; the first by default.
        sliding_window: As in `load_backbone`; the new folder is of a type that has one (a llama's becomes mistral's).
        overwrite: Replace what is there.

    Raises:
        CheckpointError, FileNotFoundError: as `load_backbone` and `read_gguf`.
        ValueError: for a type that does not exist, and a layout or a window that this model does not have.
        FileExistsError: for what may not be replaced.
    """
    dtype = parse_dtype(dtype)
    written_suffix(dst)  # what is no name is told before the model is read
    if is_gguf(src):
        for name, value in (("layout", layout), ("sliding_window", sliding_window)):
            if value:
                raise ValueError(f"{name} is {value!r}, but {src} is a GGUF file; convert it first, then its folder")
        content = read_gguf(src, dtype)
        _check_cast(src, content.model, dtype, lambda: read_gguf(src).model)
        with tempfile.TemporaryDirectory() as folder:
            file = content.tokenizer.save(folder)
            _save_for_transformers(content.model, dst, file, content.special, content.template, overwrite)
        return
    beside = tokenizer_beside(src)
    # It knows the tokens that a folder's files name; those of a file are RWKV's.
    tokenizer = load_tokenizer(beside) if beside is not None and Path(src).is_dir() else None
    template = read_template(Path(src), tokenizer).known
    if is_for_transformers(src):
        if layout:
            raise ValueError(f"layout is {layout!r}, but {src} is a model of transformers, which has one layout only")
        check_files(Path(src))
        with damage_named(Path(src)):
            model = load_hf(src, dtype=dtype, sliding_window=sliding_window)
        _check_cast(src, model.model, dtype, lambda: load_hf_model(src))
        special = read_special(Path(src), tokenizer, model.config.vocab_size)
        save_backbone(model, dst, tokenizer=beside, special=special, template=template, overwrite=overwrite)
        return
    checkpoint = read_checkpoint(src)
    _say(src, checkpoint.note)
    _refuse_window(src, sliding_window, checkpoint.config.model_type)
    types = {name: tensor.dtype for name, tensor in checkpoint.tensors.items()}
    if dtype is not None:
        types = _types(checkpoint.tensors, dtype, BACKBONES[checkpoint.config.model_type].layout)
    if beside is None and not written_suffix(dst):
        beside = world_file() if BY_VOCABULARY_SIZE.get(checkpoint.config.vocab_size) == WORLD else None
    checkpoint = checkpoint._replace(tensors=cast_checked(src, checkpoint.tensors, types), tokenizer=beside)
    special = read_special(Path(src), tokenizer, checkpoint.config.vocab_size)
    write_checkpoint(checkpoint, Path(dst), overwrite, special, template, layout)
    config = checkpoint.config
    if not written_suffix(dst) and isinstance(config, RWKV7Config):
        others = 1e-5 * config.head_size
        if not math.isclose(config.ln_x_eps, others, rel_tol=1e-6):
            print(
                f"{dst}: heads of {config.head_size}: other programs compute the group norm with an eps of {others:g}, "
                f"this model's is {config.ln_x_eps:g}",
                file=sys.stderr,
            )


def _check_cast(
    path: str | Path, model: TransformersModel, dtype: torch.dtype | None, in_own_type: Callable[[], TransformersModel]
) -> None:
    """Raises CheckpointError for values that are not finite, saying whether the file or the type is to blame.

    Args:
        path: The file or folder, for errors.
        model: What transformers read from it, cast on the way.
        dtype: The type that was asked for.
        in_own_type: Reads the model once more, in the type of its file.
    """
    try:
        check_finite(path, model.state_dict())
    except CheckpointError:
        if dtype is not None:
            check_finite(path, in_own_type().state_dict(), torch.finfo(dtype).max)
        raise


def _save_for_transformers(
    model: TransformersModel,
    path: str | Path,
    tokenizer: Path | None,
    special: SpecialTokens | None,
    template: ChatTemplate | None,
    overwrite: bool,
) -> None:
    """Writes a folder that transformers loads, whole by itself."""
    with save_hf(model, Path(path), tokenizer=tokenizer, overwrite=overwrite) as written:
        if special is not None:
            write_special(special, written, tokenizer)
        if template is not None:
            write_template(template, written)


def _refuse_window(path: str | Path, sliding_window: int, model_type: str) -> None:
    """Raises ValueError for a window of a native backbone, which attends to nothing."""
    if sliding_window:
        raise ValueError(
            f"sliding_window is {sliding_window}, but {path} is a {model_type}, which has no attention; allowed for "
            f"{', '.join(WINDOWED)}"
        )


def _say(path: str | Path, note: str) -> None:
    """Says on stderr what was stripped from the names of a checkpoint's tensors."""
    if note:
        print(f"{path}: stripped from the tensors' names: {note}", file=sys.stderr)


def is_for_transformers(path: str | Path, target_modules: Sequence[str] = ()) -> bool:
    """Returns whether a path is a folder whose model is run by transformers, with these projections as sites."""
    model_type = hf_type(path, target_modules)
    return model_type != "" and model_type not in native_layouts()


def _types(tensors: Mapping[str, Tensor], dtype: torch.dtype, layout: Layout) -> dict[str, torch.dtype]:
    """Returns the type of each tensor in a model of type `dtype`."""
    return {
        name: torch.promote_types(dtype, tensor.dtype) if layout.keep_wide.search(name) else dtype
        for name, tensor in tensors.items()
    }
