"""Tokenizers of the `tokenizers` library, stored as `tokenizer.json`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from prosg.tokenizers.base import StreamDecoder, encode_utf8
from prosg.tokenizers.guarded import guarded
from prosg.utils.io import written_whole

__all__ = ["JSON_NAME", "JsonTokenizer"]

JSON_NAME = "tokenizer.json"
REPLACEMENT = "\ufffd"
BYTE_TOKEN = re.compile("<0x(?P<digits>[0-9A-Fa-f]{2})>")
"""How vocabularies that fall back to bytes spell one."""
CONTROL_TOKEN = re.compile(r"<\|[^\s<>|]+\|>|<(start|end)_of_turn>|\[/?INST\]")
"""How chat models spell what stands between turns. Some files mark such tokens as if they were words."""
CHARACTER = 4
"""Bytes of a character at most, and so ids that may hold one."""
LONGEST_WINDOW = 64
"""Ids without a whole character after which a decoder of single ids looks for a place to cut."""


def _byte_level() -> dict[str, int]:
    """The byte that each character stands for in GPT-2's spelling: itself where it can be printed, else the next."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_LEVEL = _byte_level()


class JsonTokenizer:
    """A `Tokenizer` around one of the `tokenizers` library."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        """Wraps `inner` and drops its settings that cut or pad texts, or let a text contain special tokens."""
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner = inner

    @cached_property
    def vocab_size(self) -> int:
        """The greatest id plus one, special tokens included: ids may have gaps."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def fingerprint(self) -> str:
        canonical = json.dumps(self.described, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def described(self) -> dict[str, Any]:
        """What its tokenizer.json says."""
        content: dict[str, Any] = json.loads(self._inner.to_str())
        return content

    @cached_property
    def begin_token(self) -> int | None:
        plain, ruled = (self._inner.encode("a", add_special_tokens=added).ids for added in (False, True))
        return ruled[0] if ruled[:1] != plain[:1] else None

    def token_id(self, token: str) -> int | None:
        return self._inner.token_to_id(token)

    def is_token(self, token: int) -> bool:
        """Whether the vocabulary has an id."""
        return self._inner.id_to_token(token) is not None

    @cached_property
    def added_tokens(self) -> tuple[str, ...]:
        return tuple(token.content for _, token in sorted(self._inner.get_added_tokens_decoder().items()))

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        added = self._inner.get_added_tokens_decoder()
        return tuple(
            token.content
            for _, token in sorted(added.items())
            if token.special or CONTROL_TOKEN.fullmatch(token.content)
        )

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """That for texts in which no special token counts, with all of them marked as what they are."""
        content, special = self.described, {*self.special_tokens}
        unmarked = [t for t in content.get("added_tokens") or () if t["content"] in special and not t["special"]]
        if not unmarked:
            return self._inner
        for token in unmarked:
            token["special"] = True
        marked = tokenizers.Tokenizer.from_str(json.dumps(content))
        marked.encode_special_tokens = True
        return marked

    @cached_property
    def _with_special(self) -> tokenizers.Tokenizer:
        """A copy for texts that spell special tokens: a setting, not an argument, tells whether they count."""
        copy = tokenizers.Tokenizer.from_str(self._inner.to_str())
        copy.encode_special_tokens = False
        return copy

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self._encoding(text, special).ids

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._encoding(text)
        return encoding.ids, encoding.offsets

    def _encoding(self, text: str, special: bool = False) -> tokenizers.Encoding:
        encode_utf8(text)  # for its error; the bytes are not needed
        with guarded("the tokenizer cannot encode the text"):
            return (self._with_special if special else self._plain).encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        with guarded("the tokenizer cannot decode the ids"):
            return self._inner.decode(list(ids), skip_special_tokens=False)

    def bytes_of(self, token: int) -> bytes | None:
        text = self.decode([token])
        if REPLACEMENT not in text:
            return text.encode()
        spelled = self._inner.id_to_token(token) or ""
        if byte := BYTE_TOKEN.fullmatch(spelled):
            return bytes.fromhex(byte["digits"])
        if self._spells_bytes and all(character in BYTE_LEVEL for character in spelled):
            return bytes(BYTE_LEVEL[character] for character in spelled)
        return None

    @cached_property
    def _spells_bytes(self) -> bool:
        """Whether each character of a token's spelling stands for a byte."""
        return '"ByteLevel"' in json.dumps(self.described.get("decoder"))

    @cached_property
    def byte_tokens(self) -> frozenset[int]:
        """Ids of bytes whose text depends on those beside them: a run of them that is no UTF-8 is U+FFFD throughout."""
        if '"ByteFallback"' not in json.dumps(self.described.get("decoder")):
            return frozenset()
        vocabulary = self._inner.get_vocab(with_added_tokens=True)
        return frozenset(token for spelled, token in vocabulary.items() if BYTE_TOKEN.fullmatch(spelled))

    def stream(self) -> StreamDecoder:
        return _WindowDecoder(self)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        target = Path(folder) / JSON_NAME
        with written_whole(target, overwrite=True) as temporary:
            self._inner.save(str(temporary))
        return target


class _WindowDecoder:
    """Decodes a window of recent ids: those of the last returned piece, as context, and those after it.

    The context is there because some decoders treat a text's first token differently. Where no id completes a character
    for long, as in bytes that are none, the window is cut, so that its work does not grow with the text. A run of
    `byte_tokens` is held back to its end, without decoding, since each of them can change the whole run.
    """

    def __init__(self, tokenizer: JsonTokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._context = 0  # leading ids of the window whose text has been returned
        self._returned = ""  # that text
        self._in_run = False  # of byte tokens

    def push(self, token: int) -> str:
        self._window.append(token)
        # Ids that are none are left out by decoders, so that they end no run.
        self._in_run = token in self._tokenizer.byte_tokens or (self._in_run and not self._tokenizer.is_token(token))
        if self._in_run:
            return ""
        text = self._tokenizer.decode(self._window)
        # A broken character at the end may be completed by the next id.
        if text.endswith(REPLACEMENT) or len(text) <= len(self._returned):
            return self._cut(text) if len(self._window) - self._context >= LONGEST_WINDOW else ""
        piece = text[len(self._returned) :]
        del self._window[: self._context]
        self._context = len(self._window)
        self._returned = self._tokenizer.decode(self._window)
        return piece

    def _cut(self, text: str) -> str:
        """Returns what no later id can change, and keeps the last few ids; nothing where that cannot be told."""
        for kept in range(CHARACTER, 2 * CHARACTER):
            front, context = self._window[:-kept], self._window[-2 * kept : -kept]
            returned, tail = self._tokenizer.decode(front), self._tokenizer.decode(self._window[-kept:])
            before = self._tokenizer.decode(context)
            whole = self._tokenizer.decode([*context, *self._window[-kept:]])
            if returned + tail == text and before + tail == whole and len(returned) >= len(self._returned):
                piece = returned[len(self._returned) :]
                self._window, self._context = self._window[-2 * kept :], kept
                self._returned = before
                return piece
        if len(self._window) < 4 * LONGEST_WINDOW:
            return ""
        piece, self._window, self._context, self._returned = text[len(self._returned) :], [], 0, ""
        return piece

    def flush(self) -> str:
        piece = self._tokenizer.decode(self._window)[len(self._returned) :]
        self._window, self._context, self._returned, self._in_run = [], 0, "", False
        return piece
