"""Serving: many prompts at once with one model, each under a memory of its own.

`Engine` answers `Request`s, and tells listeners `Piece` after `Piece` until the answer is `Finished`.
"""

from prosg.serving.engine import Engine, Handle
from prosg.serving.request import Chosen, Finished, Piece, Request
from prosg.serving.statistics import EngineStatistics
from prosg.serving.waiting import EngineStopped, QueueFull

__all__ = [
    "Chosen",
    "Engine",
    "EngineStatistics",
    "EngineStopped",
    "Finished",
    "Handle",
    "Piece",
    "QueueFull",
    "Request",
]
