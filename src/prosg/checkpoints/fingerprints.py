"""Fingerprints: hashes that tell which weights a file or a result was made with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prosg.backbones import BackboneModule
from prosg.backbones.hf.files import load_hf_model
from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.backbone import is_for_transformers
from prosg.checkpoints.native_reader import read_checkpoint
from prosg.checkpoints.tensors import check_files
from prosg.model.prosg import ProSG

__all__ = ["backbone_fingerprint", "checkpoint_fingerprint", "hash_weights", "model_fingerprint"]

SAMPLES = 256
"""Values hashed per tensor at most: each costs a page of a mapped file."""


def backbone_fingerprint(backbone: BackboneModule) -> str:
    """Hashes the names, the shapes and a strided sample of the values, as fp32, of a backbone's tensors.

    It is the same for a `.pth`, its folder, the backbone loaded from either, and a copy in a wider type. A copy in a
    narrower type has other values, and so another fingerprint.

    Returns:
        A sha256 as hex.
    """
    return _hash_sample((backbone.model if isinstance(backbone, HFBackbone) else backbone).state_dict())


fingerprint = backbone_fingerprint
"""`prosg.fingerprint`"""


def checkpoint_fingerprint(path: str | Path) -> str:
    """Returns the `backbone_fingerprint` of the backbone in a file or folder, without building a native one."""
    if is_for_transformers(path, ("any",)):
        check_files(Path(path))
        return _hash_sample(load_hf_model(path).state_dict())
    return _hash_sample(read_checkpoint(path).tensors)


def model_fingerprint(model: ProSG) -> str:
    """Hashes the backbone's fingerprint and all weights of the synthesizer: what an encoded prompt depends on."""
    digest = hashlib.sha256(backbone_fingerprint(model.backbone).encode())
    if model.synthesizer is not None:
        hash_weights(digest, model.synthesizer)
    return digest.hexdigest()


def hash_weights(digest: Any, module: nn.Module) -> None:
    """Adds all names and values of a module to a hash of hashlib."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


def _hash_sample(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        flat = tensor.reshape(-1)
        sample = flat[:: -(-flat.numel() // SAMPLES)].float().cpu().numpy().astype("<f4")
        digest.update(f"{name}{list(tensor.shape)}\n".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()
