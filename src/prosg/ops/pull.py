"""A pull of a memory that is one tensor: what an anchor does to it after every step.

    S  <-  e^log_keep S + S_p

S_p is a constant, log_keep a number for each unit of the memory (its first axis behind the batch: heads, channels).
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

__all__ = ["Pull", "pull_memory"]


class Pull(NamedTuple):
    """What pulls a memory (B, U, ...) of U units."""

    memory: Tensor
    """(B, U, ...) what is added"""
    log_keep: Tensor
    """(B, U) logarithm of the share of the memory that stays, at most 0"""


def pull_memory(memory: Float[Tensor, "B U *shape"], pull: Pull) -> Float[Tensor, "B U *shape"]:
    """Returns the memory after one pull."""
    keep = pull.log_keep.exp()
    return keep.view(*keep.shape, *[1] * (memory.dim() - 2)) * memory + pull.memory
