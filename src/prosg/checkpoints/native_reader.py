"""Reading checkpoints of the native backbones, and recognising which backbone they hold.

    x.pth, x.st          one file, under BlinkDL's names: torch.save's or safetensors, which its content tells
    folder/              config.json and model.safetensors or pytorch_model.bin (also sharded), under the names of one
                         of the backbone's folder layouts (`FOLDER_LAYOUTS`); or a single .pth or .st

Which layout it is the tensors tell, not what config.json says: other programs write "rwkv7" for layouts of different
kinds. RWKV-7's .st files as its runtimes have them are transposed where fla's layout is, which the shapes tell.
Prefixes that training tools leave before every name are stripped, and the checkpoint says which.

Sizes are read from the tensors' shapes. Files are mapped into memory, so that opening one is cheap.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prosg.backbones import BACKBONES, BackboneKind
from prosg.backbones.config_json import read_config
from prosg.backbones.hf.sites import HF_SITES
from prosg.backbones.layouts import FOLDER_LAYOUTS, Layout, from_hf, read_sizes, to_hf
from prosg.backbones.native import NativeConfig
from prosg.backbones.versions import detect, version_name
from prosg.checkpoints.shards import check_whole
from prosg.checkpoints.tensors import read_tensors
from prosg.tokenizers.files import tokenizer_beside
from prosg.utils.io import CheckpointError, read_json
from prosg.utils.spelling import meant_path
from prosg.utils.values import check_number, shown

__all__ = ["Checkpoint", "native_layouts", "read_checkpoint", "weight_files"]

TOOL_PREFIXES = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel or DeepSpeed",
    "_forward_module.": "Lightning",
    "model.": "a wrapping module",
}
"""What tools put before every tensor's name -> which tool. torch.compile puts its own within names, too."""
ALIASES = {"rwkv7_fla": "rwkv7"}
"""Other `model_type`s of folders that are read."""


class Checkpoint(NamedTuple):
    """The content of a checkpoint of a native backbone."""

    config: NativeConfig
    """the backbone's sizes, e.g. an RWKV4Config"""
    tensors: dict[str, Tensor]
    """by BlinkDL's names, in the model's order and shapes"""
    tokenizer: Path | None
    """the tokenizer's file, if one lies beside the weights"""
    note: str = ""
    """what was stripped from the tensors' names, and who leaves it there; "" for nothing"""


def native_layouts() -> dict[str, Layout]:
    """Returns the layouts of the native backbones by the `model_type` of their config.json."""
    return {str(kind.layout.hf_required["model_type"]): kind.layout for kind in BACKBONES.values()}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a file or folder, and checks that it is a complete checkpoint of a native backbone.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        CheckpointError: if it is damaged, incomplete, or of another model.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder{meant_path(path)}")
    hf_config: dict[str, Any] = {}
    if path.is_dir():
        if (path / "config.json").is_file():
            hf_config = _read_hf_config(path / "config.json")
        files = weight_files(path)
    else:
        check_whole(path)
        files = [path]
    tensors: dict[str, Tensor] = {}
    for file in files:
        stored = read_tensors(file)
        if twice := sorted(tensors.keys() & stored.keys()):
            raise CheckpointError(f"{file}: has {twice[0]}, which another file of {path} has, too; keep one")
        tensors |= stored
    tensors, prefixes = _without_prefixes(path, tensors)
    if hf_config.get("tie_word_embeddings") and "head.weight" not in tensors and "rwkv.embeddings.weight" in tensors:
        tensors["head.weight"] = tensors["rwkv.embeddings.weight"].clone()
    version = _recognise(path, tensors)
    kind = BACKBONES[version]
    tensors = _canonical(tensors, kind.layout, _folder_layout(tensors, version))
    config = _read_config(path, tensors, kind, hf_config)
    note = ", ".join(f"{prefix} (of {TOOL_PREFIXES[prefix]})" for prefix in prefixes)
    return Checkpoint(config, _fitted(path, tensors, kind, config), tokenizer_beside(path), note)


def _without_prefixes(path: Path, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Strips `TOOL_PREFIXES` from tensors' names. Returns them with the prefixes that were there, outermost first."""

    def renamed(change: Callable[[str], str]) -> dict[str, Tensor]:
        changed = {change(name): tensor for name, tensor in tensors.items()}
        if len(changed) < len(tensors):
            name = next(name for name, count in Counter(map(change, tensors)).items() if count > 1)
            raise CheckpointError(f"{path}: two tensors are {name} without the prefix {found[-1]!r}; keep one")
        return changed

    found = []
    compiled = next(iter(TOOL_PREFIXES))
    if any(compiled in name for name in tensors):
        found.append(compiled)
        tensors = renamed(lambda name: name.replace(compiled, ""))
    while prefix := next((p for p in TOOL_PREFIXES if _is_before_all(p, tensors)), None):
        found.append(prefix)
        tensors = renamed(lambda name, prefix=prefix: name.removeprefix(prefix))  # type: ignore[misc]
    return tensors, found


def _is_before_all(prefix: str, tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether a prefix is a tool's. Names of folders begin with "model.", too, but not BlinkDL's."""
    if prefix == "model.":
        return "model.emb.weight" in tensors
    return bool(tensors) and all(name.startswith(prefix) for name in tensors)


def weight_files(folder: Path) -> list[Path]:
    """Finds a folder's weights, in the order in which transformers looks for them, then a single .pth or .st."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            weight_map = read_json(index, finite=True).get("weight_map")
            named = isinstance(weight_map, dict) and all(isinstance(shard, str) for shard in weight_map.values())
            if not weight_map or not named:
                raise CheckpointError(f"{index}: weight_map must be an object, of tensors' names and their files")
            shards = sorted(set(weight_map.values()))
            for shard in shards:
                if Path(shard).name != shard:
                    raise CheckpointError(f"{index}: shard {shard!r} is not a plain file name")
                if not (folder / shard).is_file():
                    raise FileNotFoundError(f"{folder / shard}: no such file, but {index.name} lists it")
            return [folder / shard for shard in shards]
    check_whole(folder)
    if (folder / "trainer_state.json").is_file() or any(folder.glob("checkpoint-*")):
        raise CheckpointError(
            f"{folder}: of a training that has not ended; its command, started again, goes on, and its output folder "
            "is then the model"
        )
    files = sorted([*folder.glob("*.pth"), *folder.glob("*.st")])
    if len(files) == 1:
        return files
    what = f"{len(files)} .pth or .st files ({', '.join(f.name for f in files[:3])}, ...)" if files else "no weights"
    raise CheckpointError(f"{folder}: {what}; needs model.safetensors or pytorch_model.bin, or exactly one .pth or .st")


def _read_hf_config(path: Path) -> dict[str, Any]:
    """Reads config.json, and checks that the backbone computes what it describes."""
    config = read_config(path)
    layouts = native_layouts()
    model_type = str(config.get("model_type"))
    if model_type in ALIASES:
        model_type = config["model_type"] = ALIASES[model_type]
    if model_type not in layouts:
        supported = ", ".join(f"{layout!r} ({name})" for layout, name in zip(layouts, BACKBONES, strict=True))
        raise CheckpointError(
            f"{path}: model_type is {model_type!r}{_version_text(model_type)}; supported: {supported}, "
            f"{', '.join(HF_SITES)}; other causal models of transformers where target_modules name their projections"
        )
    for field, value in layouts[model_type].hf_required.items():
        if config.get(field, value) != value:
            raise CheckpointError(f"{path}: {field} is {shown(config[field])}; supported: {value!r}")
    for field in layouts[model_type].hf_sizes:
        if config.get(field, 0) is None:  # the default, as in transformers
            del config[field]
    return config


def _version_text(model_type: str) -> str:
    """Returns the version of RWKV that a `model_type` means, to be said after it; "" if it is none."""
    version = re.match(r"rwkv[-_]?[5-9][a-z]?(?![a-z])", model_type)
    return f" ({version_name(version[0])})" if version else ""


def _recognise(path: Path, tensors: dict[str, Tensor]) -> str:
    """Finds the backbone, a key of `BACKBONES`, by the names of its tensors."""
    supported = ", ".join(BACKBONES)
    version = detect(tensors)
    if version is None:
        raise CheckpointError(f"{path}: not a checkpoint of a native backbone; supported: {supported}")
    if version == "state":
        raise CheckpointError(f"{path}: holds learned initial states, not a model; prompts begin from it by --state")
    if version not in BACKBONES:
        raise CheckpointError(f"{path}: this is an {version_name(version)} checkpoint; supported: {supported}")
    return version


def _folder_layout(tensors: Mapping[str, Tensor], version: str) -> Layout | None:
    """Returns the layout in which a backbone's tensors are named; None for that of a .pth."""
    if "emb.weight" in tensors:
        return None
    layouts = list(FOLDER_LAYOUTS[version].values())
    return next((layout for layout in layouts if to_hf("emb.weight", layout.names) in tensors), layouts[0])


def _canonical(tensors: dict[str, Tensor], own: Layout, folder: Layout | None) -> dict[str, Tensor]:
    """Gives tensors BlinkDL's names and orientation, and drops those that no model reads."""
    if folder is not None:
        tensors = {from_hf(name, folder.names) or name: tensor for name, tensor in tensors.items()}
        tensors = _unstacked(tensors, folder)
    layout = own if folder is None else folder
    if folder is not None or _is_turned(tensors, layout):
        turned = [name for name in tensors if layout.transposed.search(name) and tensors[name].dim() == 2]
        tensors |= {name: tensors[name].mT.contiguous() for name in turned}
    return {name: tensor for name, tensor in tensors.items() if not layout.unused.match(name)}


def _unstacked(tensors: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Takes apart what a layout may store stacked."""
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        members = layout.stacks.get(last, ())
        if members and tensor.dim() > 1 and tensor.shape[0] == len(members):
            apart |= {f"{stem}.{member}": part for member, part in zip(members, tensor, strict=True)}
        else:
            apart[name] = tensor
    return apart


def _is_turned(tensors: dict[str, Tensor], layout: Layout) -> bool:
    """Returns whether matrices under BlinkDL's names are transposed: those that read the residual stream tell."""
    width = tensors["emb.weight"].shape[-1:]
    readers = [tensor for name, tensor in tensors.items() if layout.transposed.search(name) and name.endswith("1")]
    telling = [tensor for tensor in readers if tensor.dim() == 2 and tensor.shape[0] != tensor.shape[1]]
    return bool(telling) and all(tensor.shape[1:] == width for tensor in telling)


def _read_config(path: Path, tensors: dict[str, Tensor], kind: BackboneKind, hf_config: dict[str, Any]) -> NativeConfig:
    """Reads the sizes from the tensors' shapes, and what no shape tells from config.json."""
    try:
        sizes = read_sizes(tensors, kind.layout)
    except KeyError as error:
        raise CheckpointError(f"{path}: tensor {error} is missing") from None
    except IndexError as error:
        raise _impossible(path, error) from None
    for field, name in kind.layout.hf_sizes.items():
        # An RWKV-7's num_heads is none of these: it follows from them, and published folders say another number.
        size = sizes.get(name)
        if size is not None and hf_config.get(field, size) != size:
            said = shown(hf_config[field])
            raise CheckpointError(f"{path / 'config.json'}: {field} is {said}, but the tensors' is {size}")
    try:
        extra = kind.layout.hf_only(hf_config, sizes) if hf_config else {}
        for name, value in extra.items():
            if not check_number(name, value) > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path / 'config.json'}: {error}") from None
    try:
        config: NativeConfig = kind.config(**sizes, **extra)
    except ValueError as error:
        raise _impossible(path, error) from None
    return config


def _impossible(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: a tensor has an impossible shape ({error})")


def _fitted(path: Path, tensors: dict[str, Tensor], kind: BackboneKind, config: NativeConfig) -> dict[str, Tensor]:
    """Checks names and shapes. Returns the tensors in the model's order, so that converting there and back is exact."""
    with torch.device("meta"):
        expected = kind.model(config).state_dict()
    differences = {"missing": expected.keys() - tensors.keys(), "unexpected": tensors.keys() - expected.keys()}
    for what, names in differences.items():
        if names:
            listed = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise CheckpointError(f"{path}: {what} tensors in this {config.model_type} checkpoint: {listed}")
    fitted = {name: tensors[name] for name in expected}
    for name, tensor in fitted.items():
        shape = expected[name].shape
        if tensor.shape != shape and _without_ones(tensor.shape) == _without_ones(shape):
            fitted[name] = tensor.reshape(shape)  # some files store a vector (E,) as (1, 1, E)
        elif tensor.shape != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(shape)} for {config}"
            )
    return fitted


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]
