"""What a tokenizer is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["StreamDecoder", "Tokenizer"]


@runtime_checkable
class StreamDecoder(Protocol):
    """Turns token ids into text one by one."""

    def push(self, token: int) -> str:
        """Takes in a token; returns the text that is certain by now, never half a character."""
        ...

    def flush(self) -> str:
        """Returns the rest of the text."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back, with nothing added, cut or padded."""

    @property
    def vocab_size(self) -> int:
        """Number of ids that a model must know: the largest id plus one."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash that is the same for equal tokenizers, however they are stored."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of one token as the vocabulary spells it; None where there is no such token."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. Raises ValueError for a text with a lone surrogate."""
        ...

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and, for each, the characters [start, end) of the text that it stands for."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no character become U+FFFD."""
        ...

    def stream(self) -> StreamDecoder:
        """A decoder for ids that come one by one."""
        ...

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the tokenizer's file into a folder and returns its path."""
        ...
