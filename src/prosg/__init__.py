"""ProSG turns a prompt into a low-rank update of a recurrent language model's weights.

Public names are imported on first use, so that `import prosg` is fast and does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prosg.checkpoints.adapter import save_adapter as save_adapter
    from prosg.checkpoints.backbone import convert as convert
    from prosg.checkpoints.backbone import load_backbone as load_backbone
    from prosg.checkpoints.backbone import save_backbone as save_backbone
    from prosg.checkpoints.encoded import load_encoded as load_encoded
    from prosg.checkpoints.encoded import save_encoded as save_encoded
    from prosg.checkpoints.fingerprints import fingerprint as fingerprint
    from prosg.checkpoints.load import load_model as load_model
    from prosg.core.encoded import EncodedPrompt as EncodedPrompt
    from prosg.core.update import LowRank as LowRank
    from prosg.core.update import Site as Site
    from prosg.generation.sampling import Sampling as Sampling
    from prosg.model.config import ProSGConfig as ProSGConfig
    from prosg.model.conversation import Conversation as Conversation
    from prosg.model.prosg import ProSG as ProSG
    from prosg.tokenizers.files import load_tokenizer as load_tokenizer
    from prosg.training.config import TrainConfig as TrainConfig
    from prosg.training.recipes import train_config as train_config
    from prosg.training.run import train as train

    __version__: str

_MODULES = {
    "Conversation": "prosg.model.conversation",
    "EncodedPrompt": "prosg.core.encoded",
    "LowRank": "prosg.core.update",
    "ProSG": "prosg.model.prosg",
    "ProSGConfig": "prosg.model.config",
    "Sampling": "prosg.generation.sampling",
    "Site": "prosg.core.update",
    "TrainConfig": "prosg.training.config",
    "convert": "prosg.checkpoints.backbone",
    "fingerprint": "prosg.checkpoints.fingerprints",
    "load_backbone": "prosg.checkpoints.backbone",
    "load_encoded": "prosg.checkpoints.encoded",
    "load_model": "prosg.checkpoints.load",
    "load_tokenizer": "prosg.tokenizers.files",
    "save_adapter": "prosg.checkpoints.adapter",
    "save_backbone": "prosg.checkpoints.backbone",
    "save_encoded": "prosg.checkpoints.encoded",
    "train": "prosg.training.run",
    "train_config": "prosg.training.recipes",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("prosg")
    if name not in _MODULES:
        raise AttributeError(f"module 'prosg' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
