"""Rows of several files one after the other, without a copy, and how long they are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload

from prosg.data.binidx import DocumentRows
from prosg.data.encode import EncodedRow

__all__ = ["join_rows", "row_lengths"]


class _JoinedRows(Sequence[EncodedRow]):
    """The rows of several sequences, none of them empty."""

    def __init__(self, parts: Sequence[Sequence[EncodedRow]]) -> None:
        self.parts = parts
        self.ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self.ends[-1]

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EncodedRow]: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | Sequence[EncodedRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        part = bisect_right(self.ends, index)
        return self.parts[part][index - self.ends[part]]  # counted from the part's end


def join_rows(parts: Sequence[Sequence[EncodedRow]]) -> Sequence[EncodedRow]:
    """Returns the rows of all parts, in their order; a list where all parts are lists."""
    if all(isinstance(part, list) for part in parts):
        return [row for part in parts for row in part]
    filled = [part for part in parts if len(part)]
    return filled[0] if len(filled) == 1 else _JoinedRows(filled) if filled else []


def row_lengths(rows: Sequence[EncodedRow]) -> list[int]:
    """Tokens of each row, prompt and answer together, without making the rows of documents: theirs at most."""
    if isinstance(rows, DocumentRows):
        return [int(length) for length in rows.lengths]
    if isinstance(rows, _JoinedRows):
        return [length for part in rows.parts for length in row_lengths(part)]
    return [row.tokens for row in rows]
