"""Near-duplicates by ROUGE-L F1, found exactly and fast.

    a, b    texts as words (`text.words`), |a| and |b| how many
    lcs     length of their longest common subsequence
    F       ROUGE-L F1 = 2 lcs / (|a| + |b|)
    bag     number of words in both, each counted as often as in the text that has it less often

Texts are near-duplicates if F is *above* a threshold t. A common subsequence cannot be longer than the bag, so only
pairs with 2 bag > t (|a| + |b|) need an LCS. A product of matrices bounds the bags of thousands of pairs at once: a
feature is a word with the number of its occurrence, so that the inner product of two texts' features is their bag. Rare
features share columns, which can only raise the bound, so no pair is missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosg.data.synthetic import split_of
from prosg.musi.text import words
from prosg.utils.extras import missing_extra
from prosg.utils.progress import OnProgress, no_progress

__all__ = ["SimilarPair", "SimilarText", "clusters", "first_similar", "rouge_l", "similar_pairs", "splits_by_cluster"]

COLUMNS, SHARED = 1024, 256
"""Columns of the matrices, and how many of them rare features share."""
BLOCK = 1024
"""Texts that are compared with as many others at once."""


class SimilarText(NamedTuple):
    """The index of a text that another one is a near-duplicate of, and their ROUGE-L F1."""

    place: int
    score: float


class SimilarPair(NamedTuple):
    """The indices of two near-duplicates, the later one first, and their ROUGE-L F1."""

    later: int
    earlier: int
    score: float


def _lcs(one: str, other: str, at_least: int) -> int:
    try:
        from rapidfuzz.distance import LCSseq
    except ImportError as error:
        raise missing_extra("a search for near-duplicates", "data", error) from None
    return LCSseq.similarity(one, other, score_cutoff=at_least)


def _required_lcs(total: int, above: float) -> int:
    """The shortest common subsequence with which two texts of `total` words in all are above the threshold."""
    return int(above * total / 2 + 1e-9) + 1


def rouge_l(one: str, other: str) -> float:
    """Returns the ROUGE-L F1 of two texts; 0 if one of them has no words."""
    codes, _ = _encode((one, other))
    return 2 * _lcs(codes[0], codes[1], 0) / total if (total := len(codes[0]) + len(codes[1])) else 0.0


def _encode(texts: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Each text with one character per word, on which LCS is fastest; and the words themselves."""
    table: dict[str, str] = {}
    tokenized = [words(text) for text in texts]
    codes = ["".join(table.setdefault(word, chr(len(table))) for word in tokens) for tokens in tokenized]
    return codes, tokenized


class _TextIndex:
    """Texts prepared for comparison: codes for the LCS, sparse features for the bound."""

    def __init__(self, texts: Sequence[str], above: float) -> None:
        if not 0 < above < 1:
            raise ValueError(f"the threshold for near-duplicates is {above}; it must lie between 0 and 1")
        self.above = above
        self.codes, tokenized = _encode(texts)
        self.sizes = np.array([len(code) for code in self.codes], dtype=np.float32)
        numbers: dict[tuple[str, int], int] = {}
        features: list[list[int]] = []
        for tokens in tokenized:
            seen: Counter[str] = Counter()
            row = []
            for word in tokens:
                row.append(numbers.setdefault((word, seen[word]), len(numbers)))
                seen[word] += 1
            features.append(row)
        flat = np.fromiter((number for row in features for number in row), dtype=np.int64)
        order = np.argsort(-np.bincount(flat, minlength=len(numbers)), kind="stable")
        column = np.empty(len(numbers), dtype=np.int64)
        unshared = COLUMNS - SHARED
        column[order[:unshared]] = np.arange(min(unshared, len(numbers)))
        column[order[unshared:]] = unshared + np.arange(max(0, len(numbers) - unshared)) % SHARED
        self.columns = column[flat]
        self.starts = np.concatenate([[0], np.cumsum([len(row) for row in features])]).astype(np.int64)

    def _dense(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        counts = self.starts[rows + 1] - self.starts[rows]
        at = np.concatenate([np.arange(self.starts[row], self.starts[row + 1]) for row in rows])
        cells = np.repeat(np.arange(len(rows)) * COLUMNS, counts) + self.columns[at]
        counted = np.bincount(cells, minlength=len(rows) * COLUMNS).astype(np.float32)
        return counted.reshape(len(rows), COLUMNS)

    def candidates(self, rows: NDArray[np.int64], others: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """For each row those of the others that could be near-duplicates, the likeliest first."""
        dense = self._dense(rows)
        per_row: list[list[tuple[NDArray[np.int64], NDArray[np.float32]]]] = [[] for _ in rows]
        for start in range(0, len(others), BLOCK):
            block = others[start : start + BLOCK]
            spare = dense @ self._dense(block).T - self.above / 2 * (self.sizes[rows][:, None] + self.sizes[block])
            hits, columns = np.nonzero(spare > 0)
            cuts = np.searchsorted(hits, np.arange(1, len(rows)))
            pieces = zip(np.split(columns, cuts), np.split(spare[hits, columns], cuts), strict=True)
            for row, (places, values) in enumerate(pieces):
                if len(places):
                    per_row[row].append((block[places], values))
        empty = np.empty(0, dtype=np.int64)
        joined: list[NDArray[np.int64]] = []
        for parts in per_row:
            ids = np.concatenate([part[0] for part in parts]) if parts else empty
            values = np.concatenate([part[1] for part in parts]) if parts else empty
            joined.append(ids[np.argsort(-values, kind="stable")])
        return joined

    def score(self, one: int, other: int) -> float:
        """ROUGE-L F1 if it is above the threshold, else 0."""
        total = len(self.codes[one]) + len(self.codes[other])
        lcs = _lcs(self.codes[one], self.codes[other], _required_lcs(total, self.above))
        return 2 * lcs / total if lcs else 0.0


def _blocks(first: int, last: int) -> Iterator[NDArray[np.int64]]:
    for start in range(first, last, BLOCK):
        yield np.arange(start, min(start + BLOCK, last))


def first_similar(
    texts: Sequence[str],
    above: float,
    known: Sequence[str] = (),
    *,
    among: bool = True,
) -> Iterator[SimilarText | None]:
    """Yields for each text a near-duplicate among `known` and the earlier texts that have none; None if there is none.

    So the texts with None are free of near-duplicates, and hold the first of each group. Indices count `known` first.
    above: ROUGE-L F1 above which texts are near-duplicates. among: False compares with `known` only.
    """
    index = _TextIndex([*known, *texts], above)
    kept = list(range(len(known)))
    for block in _blocks(len(known), len(known) + len(texts)):
        others = np.concatenate([np.array(kept, dtype=np.int64), block]) if among else np.arange(len(known))
        kept_in_block: set[int] = set()
        for row, candidates in zip(block.tolist(), index.candidates(block, others), strict=True):
            match = None
            for other in candidates.tolist():
                if other >= block[0] and other not in kept_in_block:
                    continue  # itself, a later one, or one that was dropped
                if score := index.score(row, other):
                    match = SimilarText(other, score)
                    break
            if match is None and among:
                kept_in_block.add(row)
                kept.append(row)
            yield match


def similar_pairs(
    texts: Sequence[str], above: float, *, on_progress: OnProgress = no_progress
) -> Iterator[SimilarPair]:
    """Yields all pairs of texts whose ROUGE-L F1 is above a threshold."""
    index = _TextIndex(texts, above)
    for block in _blocks(0, len(texts)):
        for row, candidates in zip(block.tolist(), index.candidates(block, np.arange(block[-1] + 1)), strict=True):
            for other in sorted(candidates.tolist()):
                if other < row and (score := index.score(row, other)):
                    yield SimilarPair(row, other, score)
        on_progress(len(block))


def clusters(texts: Sequence[str], above: float, *, on_progress: OnProgress = no_progress) -> list[int]:
    """Returns for each text the index of the first text of its cluster, linked to it by near-duplicates."""
    parent = list(range(len(texts)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    index = _TextIndex(texts, above)
    for block in _blocks(0, len(texts)):
        for row, candidates in zip(block.tolist(), index.candidates(block, np.arange(block[-1] + 1)), strict=True):
            for other in candidates.tolist():
                if other < row and root(other) != root(row) and index.score(row, other):
                    first, second = sorted((root(row), root(other)))
                    parent[second] = first
        on_progress(len(block))
    return [root(item) for item in range(len(texts))]


def splits_by_cluster(
    texts: Sequence[str], above: float, salt: str, *, on_progress: OnProgress = no_progress
) -> list[tuple[int, str]]:
    """Returns for each text the index of the first text of its cluster, and a split, the same for a whole cluster.

    The hash of the unordered words of a cluster's (alphabetically) first text decides the split, 80 / 10 / 10, so
    neither a seed nor the order of the texts matters.
    """
    roots = clusters(texts, above, on_progress=on_progress)
    first: dict[int, str] = {}
    for root, text in zip(roots, texts, strict=True):
        first[root] = min(first.get(root, text), text)
    splits = {root: split_of(salt, words(text)) for root, text in first.items()}
    return [(root, splits[root]) for root in roots]
