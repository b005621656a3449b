"""RWKV's own kind of tokenizer, World among them: greedy longest match over a vocabulary of byte strings.

    65 '@' 1            a line of a vocabulary file: id, Python literal of a str or bytes, length in bytes
    128 b'\\x7f' 1       ids may have gaps; 0 is not listed, it ends a text

The plain Python code runs everywhere. The compiled `pyrwkv-tokenizer` (`prosg[fast]`) finds World's ids about ten times
as fast, but exists for some versions and systems only. Where it is installed, it is loaded after the first megabyte of
text, since loading it takes as long as encoding that megabyte.
"""

from __future__ import annotations

import ast
import codecs
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path

from prosg.tokenizers.base import END_OF_TEXT, StreamDecoder, encode_utf8
from prosg.utils.io import written_whole

__all__ = ["VOCABULARY_NAME", "WORLD_FINGERPRINT", "WorldTokenizer", "read_vocabulary", "world_file"]

VOCABULARY_NAME = "rwkv_vocab_v20230424.txt"
"""The file's name in BlinkDL's packages and in Hugging Face folders of RWKV models."""
WORLD_FINGERPRINT = "2df0627f02263a61cf2606e02941969c3037394752d1d0b1f463838ca48d6839"
"""`fingerprint` of World's vocabulary, which identifies it under any file name."""
LINE = re.compile(r"""(?P<id>[0-9]+) (?:(['"])(?P<plain>[^\\'"]+)\2|(?P<any>.*)) (?P<length>[0-9]+)\n?""")
"""A line. Nearly all literals are plain text between quotes; parsing those as Python takes five times as long."""
END = 0
SPELLINGS = (END_OF_TEXT, "<|rwkv_tokenizer_end_of_text|>")
"""How END is spelled: by this package, and in the folders of transformers' models."""
_SPELLED = re.compile("|".join(map(re.escape, SPELLINGS)))
UNKNOWN = "\ufffd".encode()
COMPILED_AFTER = 1 << 20
"""Bytes encoded in Python before the compiled tokenizer is loaded."""
PREFIX = 5
"""Bytes by which longer tokens are looked up. With fewer, more lengths are tried in vain; more gain nothing."""


class WorldTokenizer:
    """A `Tokenizer` that takes the longest matching token, again and again.

    Id 0 is the end token "<|endoftext|>". Ids that the vocabulary does not have decode to U+FFFD.
    """

    def __init__(self, tokens: Mapping[int, bytes]) -> None:
        """Takes the vocabulary: bytes by id, without the end token. Every single byte must be a token."""
        self._tokens = dict(sorted(tokens.items()))
        self._texts = {END: END_OF_TEXT.encode(), **self._tokens}
        self._ids = {token: number for number, token in self._tokens.items()}
        lengths: dict[bytes, set[int]] = {}
        for token in self._ids:
            if len(token) > PREFIX:
                lengths.setdefault(token[:PREFIX], set()).add(len(token))
        short = range(PREFIX, 0, -1)
        self._lengths = {prefix: (*sorted(sizes, reverse=True), *short) for prefix, sizes in lengths.items()}
        self._short = tuple(short)
        self._encoded = 0

    @property
    def vocab_size(self) -> int:
        return max(self._texts) + 1

    @cached_property
    def fingerprint(self) -> str:
        lines = "".join(f"{number} {token.hex()}\n" for number, token in self._tokens.items())
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def begin_token(self) -> None:
        return None

    @property
    def added_tokens(self) -> tuple[str, ...]:
        return self.special_tokens

    @property
    def special_tokens(self) -> tuple[str, ...]:
        return SPELLINGS

    def token_id(self, token: str) -> int | None:
        return END if token in SPELLINGS else self._ids.get(token.encode())

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        if not special:
            return self._match(text, encode_utf8(text))
        first, *others = (self.encode(piece) for piece in _SPELLED.split(text))
        return [*first, *(token for ids in others for token in (END, *ids))]

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        source = encode_utf8(text)
        ids = self._match(text, source)
        ends = list(accumulate(len(self._tokens[number]) for number in ids))
        # Characters that begin before each byte: every byte except a continuation byte begins one.
        begun = list(accumulate(((byte & 0xC0) != 0x80 for byte in source), initial=0))
        return ids, [(begun[start + 1] - 1, begun[end]) for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def _compiled(self) -> Callable[[str], list[int]] | None:
        """The compiled tokenizer's `encode`; None if it is not installed, or if this is not World."""
        if self.fingerprint != WORLD_FINGERPRINT or find_spec("pyrwkv_tokenizer") is None:
            return None
        from pyrwkv_tokenizer import RWKVTokenizer

        encode: Callable[[str], list[int]] = RWKVTokenizer().encode
        return encode

    def _match(self, text: str, source: bytes) -> list[int]:
        self._encoded += len(source)
        if self._encoded > COMPILED_AFTER and self._compiled is not None:
            return list(self._compiled(text))
        ids, lengths, short = self._ids, self._lengths.get, self._short
        matches = []
        at = 0
        while at < len(source):
            for length in lengths(source[at : at + PREFIX], short):
                token = source[at : at + length]
                if token in ids:
                    break
            matches.append(ids[token])
            at += len(token)
        return matches

    @property
    def tokens(self) -> Mapping[int, bytes]:
        """The vocabulary: bytes by id, without the end token."""
        return self._tokens

    def bytes_of(self, token: int) -> bytes:
        """Returns the bytes of an id, which may be a part of a character."""
        return self._texts.get(token, UNKNOWN)

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join([self._texts.get(token, UNKNOWN) for token in ids]).decode("utf-8", "replace")

    def stream(self) -> StreamDecoder:
        return _ByteDecoder(self)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        target = Path(folder) / VOCABULARY_NAME
        lines = (f"{number} {_literal(token)} {len(token)}\n" for number, token in self._tokens.items())
        with written_whole(target, overwrite=True) as temporary:
            temporary.write_text("".join(lines), "utf-8", newline="\n")
        return target


class _ByteDecoder:
    """Decodes the bytes of one id after the other; an unfinished character is held back."""

    def __init__(self, tokenizer: WorldTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer.bytes_of(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def world_file() -> Path:
    """Returns the file of World's vocabulary, which the `rwkv` package contains."""
    return Path(str(files("rwkv") / VOCABULARY_NAME))


def read_vocabulary(path: str | os.PathLike[str]) -> WorldTokenizer:
    """Reads a vocabulary file. Raises ValueError for a damaged one, naming file and line."""
    tokens: dict[int, bytes] = {}
    known: set[bytes] = set()
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                match = LINE.fullmatch(line)
                if match is None:
                    raise ValueError(f"{line[:40].strip()!r} does not begin with an id and end with a length")
                number, plain, length = int(match["id"]), match["plain"], int(match["length"])
                token = plain.encode() if plain else _parse_literal(match["any"])
                if number == END:
                    raise ValueError("id 0 is kept for the end of a text")
                if not token or len(token) != length:
                    raise ValueError(f"the token has {len(token)} bytes; at least 1, and {length} expected")
                if number in tokens or token in known:
                    raise ValueError(f"{number if number in tokens else token!r} is there twice")
                tokens[number] = token
                known.add(token)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not an RWKV vocabulary: it is not UTF-8 text") from None
    except ValueError as error:
        place = len(tokens) + 1  # every line before gave one token
        raise ValueError(
            f"{path}, line {place}: damaged, or not an RWKV vocabulary: {error}; a line is an id, a token and its "
            "length in bytes, like: 65 '@' 1"
        ) from None
    _check_single_bytes(known, path)
    return WorldTokenizer(tokens)


def _parse_literal(literal: str) -> bytes:
    try:
        value = ast.literal_eval(literal) if literal[:1] in ("'", '"', "b") else None
        token = value.encode() if isinstance(value, str) else value
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        token = None
    if not isinstance(token, bytes):
        raise ValueError(f"{literal[:40]} is not text or bytes as Python spells them")
    return token


def _literal(token: bytes) -> str:
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def _check_single_bytes(tokens: Iterable[bytes], path: str | os.PathLike[str]) -> None:
    """Raises ValueError unless every single byte is a token, so that every text can be encoded."""
    missing = sorted({bytes([byte]) for byte in range(256)} - {*tokens})
    if missing:
        raise ValueError(
            f"{path}: not a whole RWKV vocabulary: {len(missing)} of the 256 single bytes are no tokens, "
            f"{missing[0]!r} the first"
        )
