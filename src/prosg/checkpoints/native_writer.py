"""Writing checkpoints of the native backbones: BlinkDL's .pth, or a folder for transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from prosg.backbones import BACKBONES
from prosg.backbones.hf.files import MODEL_FOLDER
from prosg.backbones.layouts import Layout, read_sizes, to_hf
from prosg.checkpoints.native_reader import Checkpoint
from prosg.checkpoints.special import write_special
from prosg.checkpoints.templates import write_template
from prosg.checkpoints.torch_file import save_torch
from prosg.data.templates import ChatTemplate
from prosg.tokenizers.files import stored_name, tokenizer_beside
from prosg.tokenizers.special import SpecialTokens
from prosg.utils.device import dtype_name
from prosg.utils.io import CheckpointError, written_whole

__all__ = ["write_checkpoint"]


def write_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    overwrite: bool,
    special: SpecialTokens | None = None,
    template: ChatTemplate | None = None,
) -> None:
    """Writes a .pth file if `path` ends in .pth, else a folder; the tokenizer goes beside the file, or into the folder.

    A folder has the special tokens and the chat template, if they are given; a .pth file has no place for them.

    Raises:
        CheckpointError: for other suffixes of files, and for a model whose sizes a .pth cannot store.
        FileExistsError: for a file or folder that may not be replaced, and for another tokenizer beside the file.
    """
    if path.suffix in (".bin", ".pt", ".safetensors", ".st"):
        raise CheckpointError(f"{path}: cannot write {path.suffix}; allowed: a .pth file or a folder")
    # A tensor may be a view of a whole mapped file, all of which would be written with it.
    tensors = {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in checkpoint.tensors.items()
    }
    checkpoint = checkpoint._replace(tensors=tensors)
    if path.suffix == ".pth":
        _write_pth(checkpoint, path, overwrite)
    else:
        _write_folder(checkpoint, path, overwrite, special, template)


def _write_pth(checkpoint: Checkpoint, path: Path, overwrite: bool) -> None:
    config, tensors, tokenizer = checkpoint
    kind = BACKBONES[config.model_type]
    if kind.config(**read_sizes(tensors, kind.layout)) != config:
        raise CheckpointError(
            f"{path}: the shapes of tensors in a .pth do not tell all of {config}; write a folder instead"
        )
    beside = tokenizer_beside(path)
    if tokenizer and beside and beside.read_bytes() != tokenizer.read_bytes():
        raise FileExistsError(f"{beside}: exists and differs from {tokenizer}; choose another folder")
    with written_whole(path, overwrite=overwrite) as temporary:
        save_torch(tensors, temporary)
    if tokenizer and not beside:
        with written_whole(path.parent / stored_name(tokenizer)) as temporary:
            shutil.copyfile(tokenizer, temporary)


def _write_folder(
    checkpoint: Checkpoint, path: Path, overwrite: bool, special: SpecialTokens | None, template: ChatTemplate | None
) -> None:
    config, tensors, tokenizer = checkpoint
    layout = BACKBONES[config.model_type].layout
    sizes = {field: getattr(config, name) for field, name in layout.hf_sizes.items()}
    hf_config = {**layout.hf_config, **sizes, "dtype": dtype_name(tensors["emb.weight"].dtype)}
    with written_whole(path, overwrite=overwrite, kind=MODEL_FOLDER) as temporary:
        temporary.mkdir()
        renamed = {to_hf(name, layout.names) or name: _as_hf(name, t, layout) for name, t in tensors.items()}
        save_file(renamed, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n", "utf-8")
        if tokenizer:
            shutil.copyfile(tokenizer, temporary / stored_name(tokenizer))
        if special is not None:
            write_special(special, temporary)
        if template is not None:
            write_template(template, temporary)


def _as_hf(name: str, tensor: Tensor, layout: Layout) -> Tensor:
    """Returns a tensor in the orientation and shape of Hugging Face's layout."""
    if layout.transposed.search(name):
        tensor = tensor.mT
    if layout.flat.search(name):
        tensor = tensor.flatten()
    return tensor.contiguous()
