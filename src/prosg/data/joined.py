"""Rows of several files one after the other, without a copy, and how long they are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import overload

from prosg.data.binidx import DocumentRows
from prosg.data.encode import EncodedRow

__all__ = ["answer_tokens", "join_rows", "row_lengths", "sample_rows"]


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


def sample_rows(rows: Sequence[EncodedRow], most: int = 4096) -> Sequence[EncodedRow]:
    """Returns all rows of a list, and of documents, each of which is made when it is asked for, `most` at most.

    They are spread evenly over a file. What is to be known of all rows is known of these.
    """
    if isinstance(rows, _JoinedRows):
        return [row for part in rows.parts for row in sample_rows(part, most)]
    if isinstance(rows, list) or len(rows) <= most:
        return rows
    return [rows[i * len(rows) // most] for i in range(most)]


def answer_tokens(rows: Sequence[EncodedRow]) -> int:
    """Tokens of all answers; of a file of many documents estimated from `sample_rows`."""
    if isinstance(rows, _JoinedRows):
        return sum(map(answer_tokens, rows.parts))
    sample = sample_rows(rows)
    return round(sum(len(row.answer) for row in sample) * len(rows) / len(sample))


def row_lengths(rows: Sequence[EncodedRow]) -> list[int]:
    """Tokens of each row, prompt and answer together, without making the rows of documents: theirs at most."""
    if isinstance(rows, DocumentRows):
        return [int(length) for length in rows.lengths]
    if isinstance(rows, _JoinedRows):
        return [length for part in rows.parts for length in row_lengths(part)]
    return [row.tokens for row in rows]
