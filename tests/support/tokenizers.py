"""Tokenizers for tests that need to know every id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from prosg.tokenizers.base import StreamDecoder


class CharacterTokenizer:
    """One token per character: its code point."""

    vocab_size = 0x110000
    fingerprint = "characters"
    begin_token = None
    special_tokens = ()
    added_tokens = ()

    def token_id(self, token: str) -> int | None:
        return ord(token) if len(token) == 1 else None

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return [ord(character) for character in text]

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        return self.encode(text), [(i, i + 1) for i in range(len(text))]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def bytes_of(self, token: int) -> bytes:
        return chr(token).encode()

    def stream(self) -> StreamDecoder:
        raise NotImplementedError

    def save(self, folder: str | os.PathLike[str]) -> Path:
        raise NotImplementedError
