"""An encoded prompt in one piece of memory, as caches keep many.

A prompt of a model of 12 layers is some 150 tensors, and each costs half a kilobyte beside its numbers. In one piece
they cost nothing; how it is cut is the same for all prompts of a model, and is kept once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.core.update import LowRank, Site

__all__ = ["PackedPrompt"]

ALIGNMENT = 16
"""Bytes to whose multiples each tensor's place is rounded up."""


class Layout(NamedTuple):
    """Where the parts of a prompt are, in the order of `_tensors`."""

    state: tuple[type[Any], ...]
    """each layer's type"""
    anchor: tuple[type[Any], ...] | None
    sites: tuple[Site, ...] | None
    """of the update"""
    known: bool
    limit: bool
    tensors: tuple[tuple[torch.Size, torch.dtype, int], ...]
    """shape, type and bytes"""


class PackedPrompt:
    """B prompts in one tensor of bytes; `unpack` gives the encoded prompt back, bit for bit."""

    __slots__ = ("_bytes", "_layout")

    def __init__(self, encoded: EncodedPrompt) -> None:
        """Copies a prompt, on its device."""
        self._layout = _shared(_layout(encoded))
        *starts, end = _starts(self._layout)
        self._bytes = torch.empty(end, dtype=torch.uint8, device=encoded.logits.device)
        for start, tensor in zip(starts, _tensors(encoded), strict=True):
            self._bytes[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return self._bytes.nbytes

    def unpack(self) -> EncodedPrompt:
        """Returns the prompt; its tensors are views, not to be written to."""
        layout = self._layout
        parts = iter(
            self._bytes[start : start + size].view(dtype).view(shape)
            for start, (shape, dtype, size) in zip(_starts(layout), layout.tensors, strict=False)
        )
        state = tuple(_layer(kind, parts) for kind in layout.state)
        update = None if layout.sites is None else {site: LowRank(next(parts), next(parts)) for site in layout.sites}
        anchor = None if layout.anchor is None else tuple(_layer(kind, parts) for kind in layout.anchor)
        logits = next(parts)
        limit = next(parts) if layout.limit else None
        return EncodedPrompt(state, update, logits, anchor, next(parts) if layout.known else None, limit)


def _layer(kind: type[Any], parts: Iterator[Tensor]) -> Any:
    return kind(*(next(parts) for _ in kind._fields))


def _tensors(encoded: EncodedPrompt) -> list[Tensor]:
    return [*encoded.tensors(), *([] if encoded.known is None else [encoded.known])]


def _layout(encoded: EncodedPrompt) -> Layout:
    return Layout(
        tuple(map(type, encoded.state)),
        None if encoded.anchor is None else tuple(map(type, encoded.anchor)),
        None if encoded.update is None else tuple(encoded.update),
        encoded.known is not None,
        encoded.limit is not None,
        tuple((tensor.shape, tensor.dtype, tensor.nbytes) for tensor in _tensors(encoded)),
    )


@lru_cache(maxsize=64)
def _shared(layout: Layout) -> Layout:
    """The one that was made first of those that are equal."""
    return layout


@lru_cache(maxsize=64)
def _starts(layout: Layout) -> tuple[int, ...]:
    """Where each tensor begins, and the end of the last."""
    return tuple(accumulate((-(-size // ALIGNMENT) * ALIGNMENT for _, _, size in layout.tensors), initial=0))
