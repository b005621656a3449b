"""ProSG: a prompt becomes a low-rank update of a recurrent language model's weights.

The public names are imported when they are first used, so that `import prosg` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prosg.adapter import load_encoded as load_encoded
    from prosg.adapter import load_model as load_model
    from prosg.adapter import save_encoded as save_encoded
    from prosg.checkpoint import convert as convert
    from prosg.checkpoint import fingerprint as fingerprint
    from prosg.checkpoint import load_backbone as load_backbone
    from prosg.checkpoint import save_backbone as save_backbone
    from prosg.config import ProSGConfig as ProSGConfig
    from prosg.config import TrainConfig as TrainConfig
    from prosg.encoded import EncodedPrompt as EncodedPrompt
    from prosg.lowrank import LowRank as LowRank
    from prosg.lowrank import Site as Site
    from prosg.prosg import ProSG as ProSG
    from prosg.tokenizer import load_tokenizer as load_tokenizer

_WHERE = {
    "EncodedPrompt": "prosg.encoded",
    "LowRank": "prosg.lowrank",
    "ProSG": "prosg.prosg",
    "ProSGConfig": "prosg.config",
    "Site": "prosg.lowrank",
    "TrainConfig": "prosg.config",
    "convert": "prosg.checkpoint",
    "fingerprint": "prosg.checkpoint",
    "load_backbone": "prosg.checkpoint",
    "load_encoded": "prosg.adapter",
    "load_model": "prosg.adapter",
    "load_tokenizer": "prosg.tokenizer",
    "save_backbone": "prosg.checkpoint",
    "save_encoded": "prosg.adapter",
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'prosg' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
