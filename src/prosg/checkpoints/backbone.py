"""Backbones in and out of files: BlinkDL's `.pth` and Hugging Face's folders.

    x.pth                one file, BlinkDL's names; a tokenizer may lie beside it
    folder/              config.json, model.safetensors (also sharded) or pytorch_model.bin, a tokenizer;
                         or a single .pth with its tokenizer

The native backbones are read and written here, without importing transformers; folders of other types go to it
(`backbones.hf_files`).

A tokenizer is a `tokenizer.json` or RWKV's `rwkv_vocab_v20230424.txt`.

Sizes come from the tensors' shapes, never from a name or an assumption. Files are mapped into memory, not read, so that
opening one is cheap; they are never executed: a pickle that holds anything but tensors is refused. What is written
appears under its name only when it is whole, and nothing is overwritten unless asked.

Everything wrong with a file raises CheckpointError (a ValueError), FileNotFoundError or FileExistsError, one line each.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from prosg.backbones import BACKBONES
from prosg.backbones.hf.files import hf_type, load_hf, load_hf_model, save_hf
from prosg.backbones.hf.model import HF_SITES, HFBackbone
from prosg.backbones.layouts import Layout, detect, from_hf, read_sizes, to_hf
from prosg.backbones.native import Native
from prosg.checkpoints.fingerprints import _digest
from prosg.checkpoints.tensors import read_tensors
from prosg.checkpoints.weights import check_finite, checked_and_cast
from prosg.tokenizers.files import stored_name, tokenizer_beside
from prosg.utils.device import dtype_name
from prosg.utils.io import CheckpointError, read_json, written_whole

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "convert",
    "fingerprint_file",
    "load_backbone",
    "read_checkpoint",
    "save_backbone",
]


class Checkpoint(NamedTuple):
    """What a file or folder holds, under canonical (BlinkDL) names and checked against the config's shapes."""

    config: Any
    tensors: dict[str, Tensor]
    tokenizer: Path | None


def load_backbone(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    kernel: str = "auto",
    target_modules: Sequence[str] = (),
) -> Native | HFBackbone:
    """A backbone with the weights of a `.pth` file or a folder.

    target_modules: the projections that an update may act on, by the end of their names, in a model that transformers
    runs; those of `HF_SITES` by default. Native backbones have theirs.

    dtype None keeps the file's own type, the widest where it has several, except that fp16 becomes fp32: RWKV's
    residual stream overflows fp16 in deep models. Tensors of `Layout.keep_wide` may be wider than the rest and are
    never narrowed. Weights whose type stays are mapped from the file copy-on-write: training does not write to it.

    Every value is read once, to be sure that it is finite: 4 to 8 GB a second, and what comes next reads them anyway.
    """
    if _is_for_transformers(path, target_modules):
        run_by_transformers = load_hf(path, target_modules, dtype=dtype, device=device, kernel=kernel)
        check_finite(path, run_by_transformers.model.state_dict())
        return run_by_transformers
    config, tensors, _ = read_checkpoint(path)
    kind = BACKBONES[config.model_type]
    if dtype is None:
        own = {tensor.dtype for name, tensor in tensors.items() if not kind.layout.keep_wide.search(name)}
        dtype = functools.reduce(torch.promote_types, own)
        dtype = torch.float32 if dtype == torch.float16 else dtype
    with torch.device("meta"):
        model = kind.model(config, kernel)
    model.load_state_dict(checked_and_cast(path, tensors, _types(tensors, dtype, kind.layout)), assign=True)
    return model.to(device)


def save_backbone(
    model: Native | HFBackbone, path: str | Path, *, tokenizer: Path | None = None, overwrite: bool = False
) -> None:
    """Write `model` as BlinkDL's file if `path` ends in .pth, else as a folder that transformers loads.

    tokenizer: a `tokenizer.json` or an RWKV vocabulary, which goes into the folder, or beside the file.
    """
    if isinstance(model, HFBackbone):
        save_hf(model, Path(path), tokenizer=tokenizer, overwrite=overwrite)
        return
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    _write(Checkpoint(model.config, tensors, tokenizer), Path(path), overwrite)


def convert(src: str | Path, dst: str | Path, dtype: torch.dtype | None = None, *, overwrite: bool = False) -> None:
    """A checkpoint in the other layout (or the same), its tokenizer included; bit for bit where `dtype` is None.

    Models that transformers runs have one layout; they are copied, or refused.
    """
    if _is_for_transformers(src):
        save_hf(load_hf(src, dtype=dtype), Path(dst), tokenizer=tokenizer_beside(src), overwrite=overwrite)
        return
    checkpoint = read_checkpoint(src)
    types = {name: tensor.dtype for name, tensor in checkpoint.tensors.items()}
    if dtype is not None:
        types = _types(checkpoint.tensors, dtype, BACKBONES[checkpoint.config.model_type].layout)
    checkpoint = checkpoint._replace(tensors=checked_and_cast(src, checkpoint.tensors, types))
    _write(checkpoint, Path(dst), overwrite)


def fingerprint_file(path: str | Path) -> str:
    """`fingerprint` of the model in a file or folder, without building a native one."""
    if _is_for_transformers(path, ("any",)):
        return _digest(load_hf_model(path).state_dict())
    return _digest(read_checkpoint(path).tensors)


def _types(tensors: Mapping[str, Tensor], dtype: torch.dtype, layout: Layout) -> dict[str, torch.dtype]:
    """What each tensor becomes in a model of this type."""
    return {
        name: torch.promote_types(dtype, tensor.dtype) if layout.keep_wide.search(name) else dtype
        for name, tensor in tensors.items()
    }


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Open a file or folder, and make sure that it is a whole checkpoint of a backbone that is supported."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    hf_config: dict[str, Any] = {}
    if path.is_dir():
        if (path / "config.json").is_file():
            hf_config = _read_hf_config(path / "config.json")
        files = _folder_files(path)
    else:
        files = [path]
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(file)
    if hf_config.get("tie_word_embeddings") and "head.weight" not in tensors and "rwkv.embeddings.weight" in tensors:
        tensors["head.weight"] = tensors["rwkv.embeddings.weight"].clone()
    config, tensors = _recognise(path, tensors, hf_config)
    return Checkpoint(config, tensors, tokenizer_beside(path))


def _folder_files(folder: Path) -> list[Path]:
    """The files with the weights, as transformers looks for them; else the only .pth."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            for shard in shards:
                if Path(shard).name != shard:
                    raise CheckpointError(f"{index}: shard {shard!r} is not a plain file name")
                if not (folder / shard).is_file():
                    raise FileNotFoundError(f"{folder / shard}: no such file, but {index.name} lists it")
            return [folder / shard for shard in shards]
    found = sorted(folder.glob("*.pth"))
    if len(found) == 1:
        return found
    what = f"{len(found)} .pth files ({', '.join(file.name for file in found[:3])}, ...)" if found else "no weights"
    raise CheckpointError(f"{folder}: {what}; needs model.safetensors or pytorch_model.bin, or exactly one .pth")


def _read_hf_config(path: Path) -> dict[str, Any]:
    """config.json, once it is sure that the backbone would compute what it describes."""
    config = read_json(path)
    layouts = _layouts()
    model_type = str(config.get("model_type"))
    if model_type not in layouts:
        supported = ", ".join(f"{layout!r} ({own})" for layout, own in zip(layouts, BACKBONES, strict=True))
        raise CheckpointError(
            f"{path}: model_type is {model_type!r}; supported: {supported}, {', '.join(HF_SITES)}; other causal models "
            "of transformers where target_modules name their projections"
        )
    for field, value in layouts[model_type].hf_required.items():
        if config.get(field, value) != value:
            raise CheckpointError(f"{path}: {field} is {config[field]!r}; supported: {value!r}")
    return config


def _layouts() -> dict[str, Layout]:
    """By the model_type of a folder's config.json."""
    return {str(kind.layout.hf_required["model_type"]): kind.layout for kind in BACKBONES.values()}


def _is_for_transformers(path: str | Path, names: Sequence[str] = ()) -> bool:
    model_type = hf_type(path, names)
    return model_type != "" and model_type not in _layouts()


def _recognise(path: Path, tensors: dict[str, Tensor], hf_config: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Config and canonically named tensors. Raises CheckpointError for another version, or what does not fit."""
    supported = ", ".join(BACKBONES)
    version = detect(tensors)
    if version is None:
        raise CheckpointError(f"{path}: not a checkpoint of a native backbone; supported: {supported}")
    if version == "state":
        raise CheckpointError(f"{path}: holds learned initial states, not a model; prompts begin from it by --state")
    if version not in BACKBONES:
        raise CheckpointError(
            f"{path}: this is an {version.replace('rwkv', 'RWKV-')} checkpoint; supported: {supported}"
        )
    kind = BACKBONES[version]
    if "emb.weight" not in tensors:
        tensors = {from_hf(name, kind.layout.names) or name: tensor for name, tensor in tensors.items()}
        turned = [name for name in tensors if kind.layout.transposed.search(name) and tensors[name].dim() == 2]
        tensors |= {name: tensors[name].mT.contiguous() for name in turned}
    tensors = {name: tensor for name, tensor in tensors.items() if not kind.layout.unused.match(name)}
    told = kind.layout.hf_only(hf_config) if hf_config else {}
    try:
        config = kind.config(**read_sizes(tensors, kind.layout), **told)
    except KeyError as error:
        raise CheckpointError(f"{path}: tensor {error} is missing") from None
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"{path}: a tensor has an impossible shape ({error})") from None
    with torch.device("meta"):
        expected = kind.model(config).state_dict()
    differences = {"missing": expected.keys() - tensors.keys(), "unexpected": tensors.keys() - expected.keys()}
    for what, names in differences.items():
        if names:
            listed = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise CheckpointError(f"{path}: {what} tensors in this {version} checkpoint: {listed}")
    # In the model's order, whatever the file's: so converting there and back gives the same bytes.
    tensors = {name: tensors[name] for name in expected}
    for name, tensor in tensors.items():
        shape = expected[name].shape
        if tensor.shape != shape and _without_ones(tensor.shape) == _without_ones(shape):
            tensors[name] = tensor.reshape(shape)  # a vector is sometimes stored as (1, 1, E) and sometimes as (E,)
        elif tensor.shape != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(shape)} for {config}"
            )
    return config, tensors


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _write(checkpoint: Checkpoint, path: Path, overwrite: bool) -> None:
    kind = BACKBONES[checkpoint.config.model_type]
    layout = kind.layout
    # A tensor may be a window on a whole mapped file, which would be written along with it.
    tensors = {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in checkpoint.tensors.items()
    }
    if path.suffix == ".pth":
        if kind.config(**read_sizes(tensors, layout)) != checkpoint.config:
            raise CheckpointError(
                f"{path}: a .pth cannot tell {checkpoint.config} from its tensors' shapes; write a folder instead"
            )
        beside = tokenizer_beside(path)
        if checkpoint.tokenizer and beside and beside.read_bytes() != checkpoint.tokenizer.read_bytes():
            raise FileExistsError(f"{beside}: exists and differs from {checkpoint.tokenizer}; choose another folder")
        with written_whole(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
            torch.save(tensors, file)
        if checkpoint.tokenizer and not beside:
            with written_whole(path.parent / stored_name(checkpoint.tokenizer)) as temporary:
                shutil.copyfile(checkpoint.tokenizer, temporary)
        return
    if path.suffix in (".bin", ".pt", ".safetensors"):
        raise CheckpointError(f"{path}: cannot write {path.suffix}; allowed: a .pth file or a folder")
    fields = {field: getattr(checkpoint.config, own) for field, own in layout.hf_sizes.items()}
    hf_config = {**layout.hf_config, **fields, "dtype": dtype_name(tensors["emb.weight"].dtype)}
    with written_whole(path, overwrite=overwrite, marker="config.json") as temporary:
        temporary.mkdir()
        renamed = {to_hf(name, layout.names) or name: _as_hf(name, t, layout) for name, t in tensors.items()}
        save_file(renamed, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(json.dumps(hf_config, indent=2) + "\n", "utf-8")
        if checkpoint.tokenizer:
            shutil.copyfile(checkpoint.tokenizer, temporary / stored_name(checkpoint.tokenizer))


def _as_hf(name: str, tensor: Tensor, layout: Layout) -> Tensor:
    if layout.transposed.search(name):
        tensor = tensor.mT
    if layout.flat.search(name):
        tensor = tensor.flatten()
    return tensor.contiguous()
