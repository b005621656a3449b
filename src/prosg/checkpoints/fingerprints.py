"""Which weights these are: hashes of backbones and modules."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from prosg.backbones.hf.model import HFBackbone
from prosg.model.prosg import ProSG

__all__ = ["fingerprint", "hash_weights", "model_fingerprint"]


def model_fingerprint(model: ProSG) -> str:
    """Which model made an encoded prompt: the backbone's fingerprint, and a full hash of the module's weights."""
    digest = hashlib.sha256(fingerprint(model.backbone).encode())  # type: ignore[arg-type]
    if model.synthesizer is not None:
        hash_weights(digest, model.synthesizer)
    return digest.hexdigest()


def hash_weights(digest: Any, module: nn.Module) -> None:
    """Put all names and values of a module into a hash."""
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())


SAMPLES = 256
"""Values per tensor that a fingerprint looks at: each costs a page of a mapped file."""


def fingerprint(model: nn.Module) -> str:
    """Which weights these are: sha256 over canonical names, shapes and some values of each tensor, as fp32.

    The same for a `.pth`, its folder and the model loaded from either, and for a wider copy; another for a copy that
    was narrowed, since its values are others.
    """
    return _digest((model.model if isinstance(model, HFBackbone) else model).state_dict())


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        flat = tensor.reshape(-1)
        sample = flat[:: -(-flat.numel() // SAMPLES)].float().cpu().numpy().astype("<f4")
        digest.update(f"{name}{list(tensor.shape)}\n".encode())
        digest.update(sample.tobytes())
    return digest.hexdigest()
