"""Text to ids and back: any `tokenizer.json` (around the `tokenizers` library), and RWKV's World (`world.py`).

Here are also a streaming decoder, training a small byte-level BPE, and which file is meant by a name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from prosg.tokenizers.world import END_OF_TEXT, VOCABULARY, WorldTokenizer, read_vocabulary, utf8, world_file
from prosg.utils.io import written_whole
from tokenizers import decoders, models, pre_tokenizers, trainers

__all__ = [
    "BY_VOCABULARY_SIZE",
    "END_OF_TEXT",
    "WORLD",
    "AnyTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "load_tokenizer",
    "stored_name",
    "tokenizer_beside",
    "tokenizer_file",
    "train_bpe",
]

WORLD = "world"
FILE_NAME = "tokenizer.json"
BY_VOCABULARY_SIZE = {65536: WORLD, 50277: "20B_tokenizer.json"}
"""What published RWKV models of these vocabulary sizes are used with. Only World comes along, the other is a file."""
_BROKEN = "\ufffd"  # what a decoder writes for bytes that are no character (yet)


class Tokenizer:
    """Ids for text with nothing added, cut or padded; "<|endoftext|>" in a text is plain text, not the end token."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        # A file may carry settings that would silently cut or pad texts, or turn a user's words into control tokens.
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner = inner

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    @property
    def fingerprint(self) -> str:
        """sha256 over the canonical JSON of the tokenizer: the same for equal tokenizers, however they are stored."""
        data = json.loads(self._inner.to_str())
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def token_id(self, token: str) -> int | None:
        """The id of one token as the vocabulary spells it, None where there is no such token."""
        return self._inner.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """ValueError for a text with a lone surrogate, which is no character."""
        utf8(text)
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and, for each, the characters [start, end) of the text that it stands for."""
        utf8(text)
        encoding = self._inner.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens spelled out; bytes that are no character become U+FFFD."""
        return self._inner.decode(list(ids), skip_special_tokens=False)

    def stream(self) -> StreamDecoder:
        return StreamDecoder(self)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `tokenizer.json` into the folder and return its path."""
        target = Path(folder) / FILE_NAME
        with written_whole(target, overwrite=True) as temporary:
            self._inner.save(str(temporary))
        return target


class StreamDecoder:
    """Decode ids one by one: `push` returns the text that is certain by now, `flush` the rest.

    Never emits half a character, and what it returned, joined, equals `decode` of all ids. A window of ids is decoded
    with the ids of the last piece before it as context, because some decoders treat a text's first token specially.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._seen = 0  # ids of the window whose text has been returned
        self._shown = ""  # and that text

    def push(self, token: int) -> str:
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        # A broken character at the end may be completed by the next id.
        if text.endswith(_BROKEN) or len(text) <= len(self._shown):
            return ""
        piece = text[len(self._shown) :]
        del self._window[: self._seen]
        self._seen = len(self._window)
        self._shown = self._tokenizer.decode(self._window)
        return piece

    def flush(self) -> str:
        piece = self._tokenizer.decode(self._window)[len(self._shown) :]
        self._window, self._seen, self._shown = [], 0, ""
        return piece


AnyTokenizer = Tokenizer | WorldTokenizer


def load_tokenizer(path: str | os.PathLike[str]) -> AnyTokenizer:
    """By its name, "world", or from a file: a `tokenizer.json`, an RWKV vocabulary, or a folder that holds one.

    Raises ValueError where there is none, and for a damaged file, naming it.
    """
    file = tokenizer_file(path)
    if not _is_json(file):
        return read_vocabulary(file)
    try:
        return Tokenizer(tokenizers.Tokenizer.from_file(str(file)))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{file}: not a tokenizer.json of the tokenizers library ({error})") from error


def tokenizer_file(path: str | os.PathLike[str]) -> Path:
    """The file that is meant by "world", a file or its folder. Raises ValueError where there is none."""
    if str(path) == WORLD:
        return world_file()
    file = Path(path)
    found = tokenizer_beside(file) if file.is_dir() else file
    if found is None or not found.is_file():
        raise ValueError(
            f"{path}: no {FILE_NAME} there, nor {VOCABULARY}; give such a file, a folder that holds it, or: {WORLD}"
        )
    return found


def tokenizer_beside(model: str | os.PathLike[str]) -> Path | None:
    """The tokenizer's file in a model's folder, or beside its file."""
    path = Path(model)
    folder = path if path.is_dir() else path.parent
    return next((folder / name for name in (FILE_NAME, VOCABULARY) if (folder / name).is_file()), None)


def stored_name(file: Path) -> str:
    """What a tokenizer's file, whatever it is called, is called in a model's folder."""
    return FILE_NAME if _is_json(file) else VOCABULARY


def _is_json(file: Path) -> bool:
    if file.suffix == ".json":
        return True
    with file.open("rb") as content:
        return content.read(100).lstrip().startswith(b"{")


def train_bpe(texts: Iterable[str], vocab_size: int = 1024, *, min_frequency: int = 2) -> Tokenizer:
    """Train a byte-level BPE: id 0 ends a text, every digit and every newline is a token of its own.

    Newlines being alone makes ids of text cut at a newline equal to the ids of the whole. Raises ValueError for a
    vocabulary too small for the 256 bytes and the end token.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size is {vocab_size}; at least 257 are needed (256 bytes and the end token)")
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=False,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner)
