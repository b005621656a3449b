"""Division of contents into training, validation and test data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

__all__ = ["SPLITS", "split_of"]

SPLITS = ("train", "validation", "test")


def split_of(kind: str, contents: Sequence[str]) -> str:
    """Split of some contents: 80 / 10 / 10 by sha256 of the kind and the *unordered* values, whatever the seed."""
    key = "\0".join((kind, *sorted(contents)))
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 10
    return SPLITS[max(0, bucket - 7)]
