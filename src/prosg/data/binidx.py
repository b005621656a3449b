"""Token ids in RWKV-LM's `binidx` files (Megatron's "mmap" data sets), read as rows without loading them.

    data.idx    "MMIDIDX", version, type of the ids, counts; per sequence its size and its place in data.bin;
                the sequences at which documents begin
    data.bin    the ids of all sequences, one after the other

A document ends where the index says so, and at every end token. One that is written in the cues of a chat template is a
{"text"} row: its last answer is learned. Any other is plain text, learned as a whole after an end token, as RWKV's
models see it in their own training. The ids are those of the file: nothing is tokenized or framed anew.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from prosg.data.chat import answer_offset
from prosg.data.encode import EncodedRow, row_number, truncate_row
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.special import SpecialTokens

__all__ = ["DocumentRows", "binidx_files", "read_documents"]

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
"""Magic bytes, version, code of the ids' type, number of sequences, entries of the documents' index."""
VERSION = 1
TYPES: dict[int, type[np.integer[Any]]] = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
"""Codes of whole numbers; 6 and 7 are floating-point ones, which are no token ids."""
SCANNED = 1 << 24
"""Ids that are looked through at once."""


def binidx_files(path: str | os.PathLike[str]) -> tuple[Path, Path] | None:
    """Returns the index and the ids that a path means: either file, or their common name without suffix.

    Returns:
        The two paths, of which one may not exist; None for a path that means another kind of file.
    """
    path = Path(path)
    if path.suffix in (".idx", ".bin"):
        return path.with_suffix(".idx"), path.with_suffix(".bin")
    index = path.with_name(f"{path.name}.idx")
    return (index, path.with_name(f"{path.name}.bin")) if index.is_file() and not path.exists() else None


class DocumentRows(Sequence[EncodedRow]):
    """The documents of a file as rows, each made when it is asked for.

    Args:
        ids: All ids of the file, mapped.
        starts, sizes: Where each document begins, and its ids, without an end token.
        tokenizer: Of the model; it finds the cues of conversations.
        special: What stands before prompts, and what ends answers.
        most: Tokens that longer rows are cut to; None for no limit.
    """

    def __init__(
        self,
        ids: NDArray[np.integer[Any]],
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        tokenizer: Tokenizer,
        special: SpecialTokens,
        most: int | None = None,
    ) -> None:
        self.ids, self.starts, self.sizes = ids, starts, sizes
        self.tokenizer, self.special, self.most = tokenizer, special, most

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row at most: a document's, one before it and one after it."""
        lengths = self.sizes + 2
        return lengths if self.most is None else np.minimum(lengths, self.most)

    def limited(self, max_tokens: int, truncate: bool) -> tuple[DocumentRows, int]:
        """Returns the rows of at most `max_tokens` tokens, or all, truncated; and how many are longer."""
        fits = self.lengths <= max_tokens
        for row in np.flatnonzero(self.lengths == max_tokens + 1):  # a conversation may need no token before it
            fits[row] = self[int(row)].tokens <= max_tokens
        kept = slice(None) if truncate else fits
        rows = DocumentRows(self.ids, self.starts[kept], self.sizes[kept], self.tokenizer, self.special, max_tokens)
        return rows, int((~fits).sum())

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EncodedRow]: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | Sequence[EncodedRow]:
        if isinstance(index, slice):
            some = self.starts[index], self.sizes[index]
            return DocumentRows(self.ids, *some, self.tokenizer, self.special, self.most)
        start, size = int(self.starts[index]), int(self.sizes[index])
        document: list[int] = self.ids[start : start + size].tolist()
        template, prompt, answer = self._split(document)
        answer = [*answer, self.special.end[0]]
        late = (len(answer) - 1) * 4 // 5
        row_id = f"ids {start} to {start + size - 1}"
        row = EncodedRow(
            row_number(row_id), row_id, prompt, answer, late, has_stages=False, late_text=late, template=template
        )
        return row if self.most is None or row.tokens <= self.most else truncate_row(row, self.most, self.special)

    def _split(self, document: list[int]) -> tuple[str, list[int], list[int]]:
        """The template that a document is written in ("" for plain text), its prompt and its answer."""
        found = answer_offset(self.tokenizer.decode(document))
        if found is None:
            before = self.special.prompt([])
            return "", before or [self.special.end[0]], document
        template, offset = found
        # A token across the boundary belongs to the prompt.
        first = bisect_left(range(len(document)), offset, key=lambda n: len(self.tokenizer.decode(document[:n])))
        return template, self.special.prompt(document[:first]), document[first:]


def read_documents(
    path: str | os.PathLike[str], tokenizer: Tokenizer, special: SpecialTokens, vocab_size: int
) -> DocumentRows:
    """Opens a file's documents. The ids are read once, to find end tokens and to check them, and stay on the disk.

    Args:
        path: As in `binidx_files`.
        tokenizer: The model's tokenizer.
        special: What stands before prompts, and what ends answers; every end token ends a document, too.
        vocab_size: The model's number of token ids.

    Raises:
        ValueError: for a file that is not there, damaged, or of another kind, and for ids that are not the model's.
    """
    files = binidx_files(path)
    assert files is not None
    index, ids = _read_index(files[0]), _map_ids(*files)
    starts, stops = _documents(files[0], index, len(ids))
    ends = _scan(files[1], ids, special.end, vocab_size)
    ends = ends[np.searchsorted(starts, ends, "right") - np.searchsorted(stops, ends, "right") == 1]
    starts, stops = np.sort(np.concatenate([starts, ends + 1])), np.sort(np.concatenate([ends, stops]))
    filled = stops > starts
    if not filled.any():
        raise ValueError(f"{files[0]}: holds no documents; at least one is needed")
    return DocumentRows(ids, starts[filled], (stops - starts)[filled], tokenizer, special)


class _Index(NamedTuple):
    """What an index file says, in ids rather than bytes."""

    starts: NDArray[np.int64]
    """per sequence, its first id's place in the file of ids"""
    sizes: NDArray[np.int64]
    documents: NDArray[np.int64]
    """the sequence at which each document begins, then the number of sequences"""


def _read_header(file: Path) -> tuple[np.dtype[np.integer[Any]], int, int]:
    """The ids' type, the number of sequences, and the entries of the documents' index."""
    try:
        with file.open("rb") as stream:
            header = stream.read(HEADER.size)
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file, but it has to lie beside its .bin") from None
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise ValueError(f"{file}: not an index of binidx data (it does not begin with MMIDIDX), or truncated")
    _, version, code, sequences, documents = HEADER.unpack(header)
    if version != VERSION:
        raise ValueError(f"{file}: version {version} of binidx data; supported: {VERSION}")
    if code not in TYPES:
        known = ", ".join(f"{code} ({np.dtype(kind).name})" for code, kind in TYPES.items())
        raise ValueError(f"{file}: type {code} of token ids; supported: {known}")
    dtype: np.dtype[np.integer[Any]] = np.dtype(TYPES[code]).newbyteorder("<")
    return dtype, sequences, documents


def _read_index(file: Path) -> _Index:
    dtype, sequences, documents = _read_header(file)
    expected = HEADER.size + 12 * sequences + 8 * documents
    if (size := file.stat().st_size) != expected:
        raise ValueError(f"{file}: has {size} bytes where {expected} are expected; truncated, or damaged")
    with file.open("rb") as stream:
        stream.seek(HEADER.size)
        sizes = np.fromfile(stream, "<i4", sequences).astype(np.int64)
        places = np.fromfile(stream, "<i8", sequences)
        first = np.fromfile(stream, "<i8", documents)
    if (sizes < 0).any() or (places < 0).any() or (places % dtype.itemsize).any():
        raise ValueError(f"{file}: damaged: a sequence has a size or a place that is none")
    if not documents:  # some writers leave it out: every sequence is a document
        first = np.arange(sequences + 1)
    if first[0] != 0 or first[-1] != sequences or (np.diff(first) < 0).any():
        raise ValueError(f"{file}: damaged: its documents do not begin at sequences 0 to {sequences} in turn")
    return _Index(places // dtype.itemsize, sizes, first)


def _map_ids(index: Path, file: Path) -> NDArray[np.integer[Any]]:
    dtype = _read_header(index)[0]
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file, but it has to lie beside {index.name}") from None
    count, rest = divmod(size, dtype.itemsize)
    if rest:
        raise ValueError(
            f"{file}: has {size} bytes, no whole number of ids of {dtype.itemsize} bytes; truncated, or of another "
            "index"
        )
    return np.memmap(file, dtype, "r", shape=(count,)) if count else np.empty(0, dtype)


def _documents(file: Path, index: _Index, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where documents begin and stop, in the order of the file of `count` ids."""
    starts, stops = index.starts, index.starts + index.sizes
    furthest = starts if (starts > count).any() else stops  # beyond the file, a stop may not be a number any more
    if len(furthest) and furthest.max() > count:
        raise ValueError(
            f"{file.with_suffix('.bin')}: holds {count} ids, but {file.name} has sequences up to {furthest.max()}; "
            "truncated, or of another index"
        )
    if (indexed := index.sizes.sum()) < count:
        raise ValueError(
            f"{file.with_suffix('.bin')}: holds {count} ids, but {file.name} has {indexed} in its sequences; of "
            "another index, or its type of ids is wrong"
        )
    apart = np.flatnonzero(starts[1:] != stops[:-1]) + 1
    if not np.isin(apart, index.documents).all():
        raise ValueError(f"{file}: the sequences of a document do not lie one after the other")
    some = np.diff(index.documents) > 0
    first, last = index.documents[:-1][some], index.documents[1:][some] - 1
    order = np.argsort(starts[first], kind="stable")
    starts, stops = starts[first][order], stops[last][order]
    if (starts[1:] < stops[:-1]).any():
        raise ValueError(f"{file}: damaged: documents overlap")
    return starts, stops


def _scan(file: Path, ids: NDArray[np.integer[Any]], ends: Sequence[int], vocab_size: int) -> NDArray[np.int64]:
    """The places of end tokens. ValueError for ids that the model does not have."""
    found, least, greatest = [np.empty(0, np.int64)], 0, 0
    for start in range(0, len(ids), SCANNED):
        part = ids[start : start + SCANNED]
        least, greatest = min(least, int(part.min())), max(greatest, int(part.max()))
        found.append(np.flatnonzero(np.isin(part, ends)) + start)
    wrong = least if least < 0 else greatest
    if wrong < 0 or wrong >= vocab_size:
        what = "least" if wrong < 0 else "largest"
        raise ValueError(
            f"{file}: its {what} token id is {wrong}, but the model has the ids 0 to {vocab_size - 1}; was it made "
            "with another tokenizer?"
        )
    return np.concatenate(found)
