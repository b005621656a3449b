"""RWKV's own kind of tokenizer, World's among them: greedy longest match over a vocabulary of byte strings.

    65 '@' 1            a line of a vocabulary: id, Python literal of str or bytes, length in bytes
    128 b'\\x7f' 1       ids need not be without gaps; 0 is not listed, it ends a text

Plain Python, because it runs wherever Python does. `pyrwkv-tokenizer` finds World's ids about ten times as fast, but
is compiled for some versions and systems only; where it is installed (`prosg[fast]`), it takes over after the first
megabyte, from where on loading it pays.
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

from prosg.utils.io import written_whole

__all__ = [
    "END_OF_TEXT",
    "VOCABULARY",
    "WORLD_FINGERPRINT",
    "ByteStream",
    "WorldTokenizer",
    "read_vocabulary",
    "utf8",
    "world_file",
]

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = "rwkv_vocab_v20230424.txt"
"""What the file is called in BlinkDL's packages and in Hugging Face folders of RWKV models."""
WORLD_FINGERPRINT = "2df0627f02263a61cf2606e02941969c3037394752d1d0b1f463838ca48d6839"
"""By which World's vocabulary is known under whatever name."""
LINE = re.compile(r"""(?P<id>[0-9]+) (?:(['"])(?P<plain>[^\\'"]+)\2|(?P<any>.*)) (?P<length>[0-9]+)\n?""")
"""A line; nearly all literals are plain text between quotes, and parsing them as Python takes five times as long."""
END = 0
UNKNOWN = "\ufffd".encode()
PAYS_FROM = 1 << 20
"""Bytes that are encoded before the compiled tokenizer is loaded, which takes as long as these."""
PREFIX = 5
"""Bytes by which longer tokens are looked up: by fewer, more lengths are tried in vain; by more, nothing is won."""


class WorldTokenizer:
    """Ids for text with nothing added: the longest token that matches, again and again.

    The interface is `Tokenizer`'s. Id 0 is the end token "<|endoftext|>", which is plain text where a text has it; ids
    that the vocabulary does not have decode to U+FFFD.
    """

    def __init__(self, tokens: Mapping[int, bytes]) -> None:
        self._tokens = dict(sorted(tokens.items()))
        self._texts = {END: END_OF_TEXT.encode(), **self._tokens}
        self._ids = {token: number for number, token in self._tokens.items()}
        lengths: dict[bytes, set[int]] = {}
        for token in self._ids:
            if len(token) > PREFIX:
                lengths.setdefault(token[:PREFIX], set()).add(len(token))
        short = range(PREFIX, 0, -1)
        self._lengths = {prefix: (*sorted(found, reverse=True), *short) for prefix, found in lengths.items()}
        self._short = tuple(short)
        self._encoded = 0

    @property
    def vocab_size(self) -> int:
        """The largest id and one: how many a model must know."""
        return max(self._texts) + 1

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over ids and bytes: the same for equal vocabularies, however they are spelled and stored."""
        listed = "".join(f"{number} {token.hex()}\n" for number, token in self._tokens.items())
        return hashlib.sha256(listed.encode()).hexdigest()

    def token_id(self, token: str) -> int | None:
        """The id of one token, None where there is no such token."""
        return END if token == END_OF_TEXT else self._ids.get(token.encode())

    def encode(self, text: str) -> list[int]:
        """ValueError for a text with a lone surrogate, which is no character."""
        return self._match(text, utf8(text))

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and, for each, the characters [start, end) of the text that it stands for, or has a part of."""
        source = utf8(text)
        ids = self._match(text, source)
        ends = list(accumulate(len(self._tokens[number]) for number in ids))
        # How many characters have begun before each byte: all bytes but continuation bytes begin one.
        begun = list(accumulate(((byte & 0xC0) != 0x80 for byte in source), initial=0))
        return ids, [(begun[start + 1] - 1, begun[end]) for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def _compiled(self) -> Callable[[str], list[int]] | None:
        """The compiled tokenizer's `encode`, where it is installed and this is World."""
        if self.fingerprint != WORLD_FINGERPRINT or find_spec("pyrwkv_tokenizer") is None:
            return None
        from pyrwkv_tokenizer import RWKVTokenizer

        return RWKVTokenizer().encode  # type: ignore[no-any-return]

    def _match(self, text: str, source: bytes) -> list[int]:
        self._encoded += len(source)
        if self._encoded > PAYS_FROM and self._compiled is not None:
            return list(self._compiled(text))
        ids, lengths, short = self._ids, self._lengths.get, self._short
        found = []
        at = 0
        while at < len(source):
            for length in lengths(source[at : at + PREFIX], short):
                token = source[at : at + length]
                if token in ids:
                    break
            found.append(ids[token])
            at += len(token)
        return found

    def bytes_of(self, token: int) -> bytes:
        """What an id stands for: part of a character, too."""
        return self._texts.get(token, UNKNOWN)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, the end token spelled out; bytes that are no character become U+FFFD."""
        return b"".join([self._texts.get(token, UNKNOWN) for token in ids]).decode("utf-8", "replace")

    def stream(self) -> ByteStream:
        return ByteStream(self)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the vocabulary into the folder, in BlinkDL's format, and return its path."""
        target = Path(folder) / VOCABULARY
        lines = (f"{number} {_literal(token)} {len(token)}\n" for number, token in self._tokens.items())
        with written_whole(target, overwrite=True) as temporary:
            temporary.write_text("".join(lines), "utf-8", newline="\n")
        return target


class ByteStream:
    """Decode ids one by one: `push` returns the characters that are whole by now, `flush` the rest.

    What it returned, joined, equals `decode` of all ids.
    """

    def __init__(self, tokenizer: WorldTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer.bytes_of(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def utf8(text: str) -> bytes:
    """A text's bytes. ValueError where it has a lone surrogate, naming the character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        surrogate = ord(text[error.start])
        raise ValueError(
            f"character {error.start} of the text is the lone surrogate U+{surrogate:04X}; text is of whole characters"
        ) from None


def world_file() -> Path:
    """World's vocabulary, as the `rwkv` package brings it along."""
    return Path(str(files("rwkv") / VOCABULARY))


def read_vocabulary(path: str | os.PathLike[str]) -> WorldTokenizer:
    """From a vocabulary file. ValueError for one that is damaged, naming the line."""
    tokens: dict[int, bytes] = {}
    known: set[bytes] = set()
    try:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                found = LINE.fullmatch(line)
                if found is None:
                    raise ValueError(f"{line[:40].strip()!r} does not begin with an id and end with a length")
                number, plain, length = int(found["id"]), found["plain"], int(found["length"])
                token = plain.encode() if plain else _parse(found["any"])
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
        place = len(tokens) + 1  # every line before has given one
        raise ValueError(
            f"{path}, line {place}: damaged, or not an RWKV vocabulary: {error}; a line is an id, a token and its "
            "length in bytes, like: 65 '@' 1"
        ) from None
    _check_bytes(known, path)
    return WorldTokenizer(tokens)


def _parse(literal: str) -> bytes:
    try:
        value = ast.literal_eval(literal) if literal[:1] in ("'", '"', "b") else None
        token = value.encode() if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        token = None
    if not isinstance(token, bytes):
        raise ValueError(f"{literal[:40]} is not text or bytes as Python spells them")
    return token


def _literal(token: bytes) -> str:
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def _check_bytes(tokens: Iterable[bytes], path: str | os.PathLike[str]) -> None:
    """Every text can be written only where every byte is a token."""
    missing = sorted({bytes([byte]) for byte in range(256)} - {*tokens})
    if missing:
        raise ValueError(
            f"{path}: not a whole RWKV vocabulary: {len(missing)} of the 256 single bytes are no tokens, "
            f"{missing[0]!r} the first"
        )
