"""Writing checkpoints of the native backbones: BlinkDL's .pth, or a folder for transformers."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from prosg.backbones import BACKBONES
from prosg.backbones.hf.files import MODEL_FOLDER, written_suffix
from prosg.backbones.layouts import FOLDER_LAYOUTS, Layout, read_sizes, to_hf
from prosg.backbones.native import NativeConfig
from prosg.checkpoints.native_reader import Checkpoint
from prosg.checkpoints.special import write_special
from prosg.checkpoints.templates import write_template
from prosg.checkpoints.torch_file import save_torch
from prosg.data.templates import TEMPLATES, ChatTemplate
from prosg.tokenizers.files import copy_tokenizer, stored_name, tokenizer_beside
from prosg.tokenizers.special import RWKV_SPECIAL, SpecialTokens
from prosg.utils.device import dtype_name
from prosg.utils.io import CheckpointError, written_whole

__all__ = ["write_checkpoint"]


def write_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    overwrite: bool,
    special: SpecialTokens | None = None,
    template: ChatTemplate | None = None,
    layout: str = "",
) -> None:
    """Writes a .pth file if `path` ends in .pth, else a folder; the tokenizer goes beside the file, or into the folder.

    A folder has the special tokens and the chat template, if they are given; a .pth file has no place for them, which
    is said on stderr, with the options that name them.

    Args:
        checkpoint: What to write.
        path: The file or folder.
        overwrite: Replace what is there.
        special: Special tokens.
        template: Chat template.
        layout: Which of the backbone's `FOLDER_LAYOUTS` a folder has; "" for the first.

    Raises:
        CheckpointError: for other suffixes of files, and for a model whose sizes a .pth cannot store, or that the code
            for a folder's layout would compute otherwise.
        ValueError: for a layout that the backbone does not have, and for one of a .pth file.
        FileExistsError: for a file or folder that may not be replaced, and for another tokenizer beside the file.
    """
    suffix = written_suffix(path)
    # A tensor may be a view of a whole mapped file, all of which would be written with it.
    tensors = {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in checkpoint.tensors.items()
    }
    checkpoint = checkpoint._replace(tensors=tensors)
    if suffix:
        if layout:
            raise ValueError(f"layout is {layout!r}, but {path} is a .pth file, which has BlinkDL's; name a folder")
        _write_pth(checkpoint, path, overwrite)
        if lost := _lost(special or RWKV_SPECIAL, template):
            print(f"note: {path} has no place for {', '.join(lost)}; a folder has", file=sys.stderr)
    else:
        chosen = _choose(checkpoint.config, path, layout)
        _write_folder(checkpoint, path, overwrite, special, template, chosen)


def _choose(config: NativeConfig, path: Path, name: str) -> Layout:
    """Returns a folder layout by its name, after checking that the code that reads it computes the same model."""
    layouts = FOLDER_LAYOUTS[config.model_type]
    if name and name not in layouts:
        raise ValueError(f"layout is {name!r}; allowed for {config.model_type}: {', '.join(layouts)}")
    layout = layouts[name or next(iter(layouts))]
    for field, value_of in layout.only.items():
        if not math.isclose(getattr(config, field), value := float(value_of(config)), rel_tol=1e-9):  # type: ignore[arg-type]
            raise CheckpointError(
                f"{path}: {field} is {getattr(config, field)}, but what reads folders of the layout {name!r} computes "
                f"with {value:g}; choose another layout"
            )
    return layout


def _write_pth(checkpoint: Checkpoint, path: Path, overwrite: bool) -> None:
    config, tensors, tokenizer, _ = checkpoint
    kind = BACKBONES[config.model_type]
    if kind.config(**read_sizes(tensors, kind.layout)) != config:
        raise CheckpointError(
            f"{path}: the shapes of tensors in a .pth do not tell all of {config}; write a folder instead"
        )
    beside = tokenizer_beside(path)
    if tokenizer and beside and beside.read_bytes() != tokenizer.read_bytes():
        raise FileExistsError(
            f"{beside}: exists, and is another tokenizer than the model's {stored_name(tokenizer)}; "
            "choose another folder"
        )
    with written_whole(path, overwrite=overwrite) as temporary:
        save_torch(tensors, temporary)
    if tokenizer and not beside:
        with written_whole(path.parent / stored_name(tokenizer)) as temporary:
            shutil.copyfile(tokenizer, temporary)


def _lost(special: SpecialTokens, template: ChatTemplate | None) -> list[str]:
    """Says what a .pth file does not hold, and the options that say it to a command that loads the file."""
    lost = []
    if special.end != RWKV_SPECIAL.end:
        ids = ",".join(map(str, special.end))
        lost.append(f"the end tokens (--end-token {ids})")
    if special.begin is not None:
        lost.append(f"the begin token (--begin-token {special.begin})")
    if template is not None:
        lost.append(f"the chat template{f' (--template {template.name})' if template.name in TEMPLATES else ''}")
    return lost


def _write_folder(
    checkpoint: Checkpoint,
    path: Path,
    overwrite: bool,
    special: SpecialTokens | None,
    template: ChatTemplate | None,
    layout: Layout,
) -> None:
    config, tensors, tokenizer, _ = checkpoint
    sizes = {field: getattr(config, name) for field, name in layout.hf_sizes.items()}
    dtype = tensors["emb.weight"].dtype
    hf_config = {**layout.hf_config, **sizes, "dtype": dtype_name(dtype)}
    with written_whole(path, overwrite=overwrite, kind=MODEL_FOLDER) as temporary:
        temporary.mkdir()
        stored = {name: _as_hf(name, tensor, layout) for name, tensor in tensors.items()} | _zeros(
            config, layout, dtype
        )
        renamed = {to_hf(name, layout.names) or name: tensor for name, tensor in _stacked(stored, layout).items()}
        save_file(renamed, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n", "utf-8")
        if tokenizer:
            copy_tokenizer(tokenizer, temporary)
        if special is not None:
            write_special(special, temporary, tokenizer)
        if template is not None:
            write_template(template, temporary)


def _as_hf(name: str, tensor: Tensor, layout: Layout) -> Tensor:
    """Returns a tensor in the orientation and shape of Hugging Face's layout."""
    if layout.transposed.search(name):
        tensor = tensor.mT
    if layout.flat.search(name):
        tensor = tensor.flatten()
    return tensor.contiguous()


def _zeros(config: NativeConfig, layout: Layout, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the tensors that a layout demands and no model uses."""
    shapes = {
        name: [size if isinstance(size, int) else getattr(config, size) for size in shape]
        for name, shape in layout.zeros.items()
    }
    return {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}


def _stacked(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Stacks what a layout stores stacked, each as one row."""
    together = dict(tensors)
    for last, members in layout.stacks.items() if layout.stacked else ():
        for name in [name for name in tensors if name.endswith(f".{members[0]}")]:
            stem = name.removesuffix(members[0])
            if all(f"{stem}{member}" in together for member in members):
                together[f"{stem}{last}"] = torch.stack([together.pop(f"{stem}{m}").flatten() for m in members])
    return together
