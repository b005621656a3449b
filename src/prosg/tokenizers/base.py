"""What a tokenizer is: text to token ids and back, at once or id by id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["END_OF_TEXT", "StreamDecoder", "Tokenizer", "encode_utf8"]

END_OF_TEXT = "<|endoftext|>"
"""How the token that ends a text is spelled."""


@runtime_checkable
class StreamDecoder(Protocol):
    """Decodes token ids one by one. The returned pieces, joined, equal `Tokenizer.decode` of all ids."""

    def push(self, token: int) -> str:
        """Takes the next id and returns the text that no later id can change: possibly "", never half a character."""
        ...

    def flush(self) -> str:
        """Returns the text that is still held back."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Converts text to token ids and back. Nothing is added, cut or padded.

    Special tokens cannot be typed: "<|endoftext|>" within a text is encoded as plain text, unless `encode` is told that
    the text is a program's (a chat template's), not a user's.
    """

    @property
    def vocab_size(self) -> int:
        """Number of ids that a model must know: the largest id plus one."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of the vocabulary and rules, as hex: equal for equal tokenizers, whatever file they came from."""
        ...

    @property
    def begin_token(self) -> int | None:
        """Id that the tokenizer's own rules put before a text, which `encode` does not; None for none."""
        ...

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """How the special tokens are spelled."""
        ...

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """How all tokens are spelled that are found in a text before any other rule, special or not."""
        ...

    def token_id(self, token: str) -> int | None:
        """Returns the id of a token spelled as in the vocabulary, or None if there is no such token."""
        ...

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Returns the ids of a text.

        Args:
            text: Any text.
            special: Whether special tokens that it spells are tokens, instead of plain text.

        Raises:
            ValueError: if it contains a lone surrogate.
        """
        ...

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the ids and, for each, the half-open range [start, end) of characters that it covers, if only partly.

        Raises ValueError if the text contains a lone surrogate.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, special tokens spelled out. Bytes that form no character become U+FFFD."""
        ...

    def bytes_of(self, token: int) -> bytes | None:
        """Returns the bytes of an id, which may be a part of a character; None where its files do not tell them."""
        ...

    def stream(self) -> StreamDecoder:
        """Returns a new decoder for ids that arrive one by one."""
        ...

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the tokenizer's file into a folder and returns the file's path."""
        ...


def encode_utf8(text: str) -> bytes:
    """Returns the UTF-8 bytes of a text. Raises ValueError at a lone surrogate, naming its place."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        surrogate = ord(text[error.start])
        raise ValueError(
            f"character {error.start} of the text is the lone surrogate U+{surrogate:04X}; text is of whole characters"
        ) from None
