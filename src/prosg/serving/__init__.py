"""Serving: many prompts at once with one model, each under a memory of its own.

`Engine` answers `Request`s, and tells listeners `Piece` after `Piece` until the answer is `Finished`. Names are
imported on first use, so that options of the server do not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prosg.serving.engine import Engine as Engine
    from prosg.serving.engine import Handle as Handle
    from prosg.serving.request import Chosen as Chosen
    from prosg.serving.request import Finished as Finished
    from prosg.serving.request import Piece as Piece
    from prosg.serving.request import Request as Request
    from prosg.serving.statistics import EngineStatistics as EngineStatistics
    from prosg.serving.waiting import EngineStopped as EngineStopped
    from prosg.serving.waiting import QueueFull as QueueFull

_MODULES = {
    "Chosen": "prosg.serving.request",
    "Engine": "prosg.serving.engine",
    "EngineStatistics": "prosg.serving.statistics",
    "EngineStopped": "prosg.serving.waiting",
    "Finished": "prosg.serving.request",
    "Handle": "prosg.serving.engine",
    "Piece": "prosg.serving.request",
    "QueueFull": "prosg.serving.waiting",
    "Request": "prosg.serving.request",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'prosg.serving' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
