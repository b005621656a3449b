"""Fingerprints: hashes that tell which weights a file or a result was made with.

Every value counts, so that equal fingerprints mean equal weights. What `prosg info`, an adapter, an encoded prompt, an
evaluation's parts and its report call the fingerprint of a model is one and the same.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prosg.backbones import BackboneModule
from prosg.backbones.hf.cache import TransformersModel
from prosg.backbones.hf.files import load_hf_model
from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.backbone import is_for_transformers
from prosg.checkpoints.native_reader import read_checkpoint, weight_files
from prosg.checkpoints.tensors import check_files
from prosg.model.config import ProSGConfig
from prosg.model.prosg import ProSG
from prosg.utils.file_hashes import file_stamp
from prosg.utils.store import hash_json

__all__ = [
    "backbone_fingerprint",
    "checkpoint_fingerprint",
    "fingerprint",
    "hash_weights",
    "model_fingerprint",
    "reading_identity",
    "sampled_fingerprint",
]

CHUNK = 1 << 22
"""Values hashed at once."""
PASSING = ("architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Options of transformers' models that change no value that a model computes, or stand in its tensors."""
SAMPLES = 256
"""Values of a tensor that the fingerprints of version 0.1 were made of, at most."""


def backbone_fingerprint(backbone: BackboneModule) -> str:
    """Hashes a backbone's sizes and options, and the names, the shapes and all values, as fp32, of its tensors.

    It is the same for a `.pth`, its folder, the backbone loaded from either, and a copy in a wider type. A copy in a
    narrower type has other values, and so another fingerprint.

    Returns:
        A sha256 as hex.
    """
    if isinstance(backbone, HFBackbone):
        return _hash_model(_hf_options(backbone.model), backbone.model.state_dict())
    return _hash_model(_native_options(backbone.config), backbone.state_dict())


def checkpoint_fingerprint(path: str | Path, sliding_window: int = 0) -> str:
    """Returns the `backbone_fingerprint` of the backbone in a file or folder, without building a native one.

    A process computes it once, as long as the files stay as they are. `sliding_window` is that of `load_backbone`.
    """
    path = Path(path)
    files = [path] if not path.is_dir() else [path / "config.json", *weight_files(path)]
    stamps = tuple(file_stamp(file) for file in files if file.is_file())
    return _of_files(path, sliding_window) if None in stamps else _remembered(path, stamps, sliding_window)


@functools.lru_cache(maxsize=16)
def _remembered(path: Path, stamps: tuple[str | None, ...], sliding_window: int) -> str:
    """`_of_files`; the stamps tell the files that are there from those that were there before."""
    return _of_files(path, sliding_window)


def _of_files(path: Path, sliding_window: int) -> str:
    if is_for_transformers(path, ("any",)):
        check_files(path)
        model = load_hf_model(path, sliding_window=sliding_window)
        return _hash_model(_hf_options(model), model.state_dict())
    checkpoint = read_checkpoint(path)
    return _hash_model(_native_options(checkpoint.config), checkpoint.tensors)


def model_fingerprint(model: ProSG) -> str:
    """Hashes the backbone's fingerprint, and the synthesizer's options and weights: what an encoded prompt depends on.

    Without a synthesizer it is the backbone's own fingerprint, so that one model has one.
    """
    own = backbone_fingerprint(model.backbone)
    if model.synthesizer is None:
        return own
    if model.prosg_config is None:  # a synthesizer of another class: its name stands for its options
        changed = {"class": type(model.synthesizer).__qualname__}
    else:
        options, defaults = model.prosg_config.to_dict(), ProSGConfig().to_dict()
        # Options at their defaults are left out, so that one that a later version has changes no fingerprint.
        changed = {name: value for name, value in options.items() if value != defaults[name]}
    digest = hashlib.sha256((own + hash_json(changed)).encode())
    hash_weights(digest, model.synthesizer)
    return digest.hexdigest()


def fingerprint(model: ProSG | BackboneModule) -> str:
    """Returns the fingerprint of a model, or of a backbone alone, as `prosg info` prints it."""
    return model_fingerprint(model) if isinstance(model, ProSG) else backbone_fingerprint(model)


def sampled_fingerprint(backbone: BackboneModule | str | Path) -> str:
    """The fingerprint that version 0.1 wrote into adapters, of a strided sample of each tensor's values."""
    digest = hashlib.sha256()
    tensors: Mapping[str, Tensor]
    if not isinstance(backbone, str | Path):
        tensors = (backbone.model if isinstance(backbone, HFBackbone) else backbone).state_dict()
    elif is_for_transformers(backbone, ("any",)):
        tensors = load_hf_model(backbone).state_dict()
    else:
        tensors = read_checkpoint(backbone).tensors
    for name in sorted(tensors):
        flat = tensors[name].detach().reshape(-1)
        sample = flat[:: -(-flat.numel() // SAMPLES)].float().cpu().numpy().astype("<f4")
        digest.update(f"{name}{list(tensors[name].shape)}\n".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()


def hash_weights(digest: Any, module: nn.Module) -> None:
    """Adds all names, shapes and values of a module to a hash of hashlib."""
    for name, tensor in sorted(module.state_dict().items()):
        _add_tensor(digest, name, tensor)


def reading_identity(model: ProSG, fingerprint: str) -> str:
    """A hash of all that reading a prompt follows from: a model's fingerprint, and the state that it begins with.

    Args:
        model: What reads.
        fingerprint: Its `model_fingerprint`, which is what comes back where it begins with no state of its own.
    """
    if model.initial is None:
        return fingerprint
    digest = hashlib.sha256(fingerprint.encode())
    hash_weights(digest, model.initial)
    return digest.hexdigest()


def _native_options(config: Any) -> dict[str, Any]:
    """Sizes and options of a native backbone, a dataclass of its own kind."""
    return dataclasses.asdict(config)


def _hf_options(model: TransformersModel) -> dict[str, Any]:
    """The configuration of a model of transformers, without what says how and by whom it was loaded."""

    def computing(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(k): computing(v) for k, v in value.items() if not str(k).startswith("_") and k not in PASSING}
        return [computing(one) for one in value] if isinstance(value, list | tuple) else value

    options: dict[str, Any] = computing(model.config.to_dict())
    return options


def _hash_model(options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    def hashed(name: str) -> bytes:
        own = hashlib.sha256()
        _add_tensor(own, name, tensors[name])
        return own.digest()

    digest = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode())
    with ThreadPoolExecutor() as pool:  # half a gigabyte a second and core
        for one in pool.map(hashed, sorted(tensors)):
            digest.update(one)
    return digest.hexdigest()


def _add_tensor(digest: Any, name: str, tensor: Tensor) -> None:
    """Adds a tensor as fp32; as fp64 where its values are no numbers of fp32."""
    digest.update(f"{name}{list(tensor.shape)}\n".encode())
    for values in tensor.detach().reshape(-1).split(CHUNK):
        narrow = values.float()
        exact = narrow if values.dtype != torch.float64 or torch.equal(narrow.double(), values) else values
        digest.update(exact.cpu().numpy().astype(f"<f{exact.element_size()}", copy=False).tobytes())
