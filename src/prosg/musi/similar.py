"""Near-duplicates by ROUGE-L, exactly and fast.

    a, b    texts as words (`text.words`), |a| and |b| how many
    lcs     length of their longest common subsequence
    F       ROUGE-L F1 = 2 lcs / (|a| + |b|)
    bag     words that both have, each as often as in the text that has it less often

Texts are near-duplicates where F is *above* a threshold t. A common subsequence cannot be longer than the bag, so only
pairs with 2 bag > t (|a| + |b|) can be, and the others need no LCS. The bag is bounded for thousands of pairs at once
by a product of matrices: a feature is a word together with which occurrence of it this is, so that the inner product of
two texts' features is the bag; rare features share columns, which can only raise the bound. So no pair is missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prosg.musi.text import words

__all__ = ["Match", "Pair", "clusters", "first_similar", "need", "rouge_l", "similar_pairs"]

COLUMNS, SHARED = 1024, 256
"""columns of the matrices, and how many of them rare features share"""
BLOCK = 1024
"""texts that are compared with as many others at once"""

Tell = Callable[[int], object]


class Match(NamedTuple):
    """The text that another one is too similar to, and how similar."""

    place: int
    score: float


class Pair(NamedTuple):
    """Two texts, the later one first, and their ROUGE-L F1."""

    later: int
    earlier: int
    score: float


def _lcs(one: str, other: str, at_least: int) -> int:
    try:
        from rapidfuzz.distance import LCSseq
    except ImportError:
        raise ValueError("near-duplicates need the package rapidfuzz: pip install 'prosg[data]'") from None
    return LCSseq.similarity(one, other, score_cutoff=at_least)


def need(total: int, above: float) -> int:
    """The shortest common subsequence with which two texts of `total` words together are above the threshold."""
    return int(above * total / 2 + 1e-9) + 1


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 of two texts; 0 where one of them has no words."""
    codes, _ = _encode((one, other))
    return 2 * _lcs(codes[0], codes[1], 0) / total if (total := len(codes[0]) + len(codes[1])) else 0.0


def _encode(texts: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Each text with one character per word, on which LCS runs at its fastest; and the words themselves."""
    table: dict[str, str] = {}
    found = [words(text) for text in texts]
    codes = ["".join(table.setdefault(word, chr(len(table))) for word in one) for one in found]
    return codes, found


class _Texts:
    """Texts made ready to be compared: codes for LCS, sparse features for the bound."""

    def __init__(self, texts: Sequence[str], above: float) -> None:
        if not 0 < above < 1:
            raise ValueError(f"the threshold for near-duplicates is {above}; it must lie between 0 and 1")
        self.above = above
        self.codes, found = _encode(texts)
        self.sizes = np.array([len(code) for code in self.codes], dtype=np.float32)
        numbers: dict[tuple[str, int], int] = {}
        features: list[list[int]] = []
        for one in found:
            seen: Counter[str] = Counter()
            row = []
            for word in one:
                row.append(numbers.setdefault((word, seen[word]), len(numbers)))
                seen[word] += 1
            features.append(row)
        flat = np.fromiter((number for row in features for number in row), dtype=np.int64)
        order = np.argsort(-np.bincount(flat, minlength=len(numbers)), kind="stable")
        column = np.empty(len(numbers), dtype=np.int64)
        own = COLUMNS - SHARED
        column[order[:own]] = np.arange(min(own, len(numbers)))
        column[order[own:]] = own + np.arange(max(0, len(numbers) - own)) % SHARED
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
        found: list[list[tuple[Any, Any]]] = [[] for _ in rows]
        for start in range(0, len(others), BLOCK):
            block = others[start : start + BLOCK]
            spare = dense @ self._dense(block).T - self.above / 2 * (self.sizes[rows][:, None] + self.sizes[block])
            hits, columns = np.nonzero(spare > 0)
            cuts = np.searchsorted(hits, np.arange(1, len(rows)))
            pieces = zip(np.split(columns, cuts), np.split(spare[hits, columns], cuts), strict=True)
            for row, (places, values) in enumerate(pieces):
                if len(places):
                    found[row].append((block[places], values))
        empty = np.empty(0, dtype=np.int64)
        joined: list[NDArray[np.int64]] = []
        for parts in found:
            ids = np.concatenate([part[0] for part in parts]) if parts else empty
            values = np.concatenate([part[1] for part in parts]) if parts else empty
            joined.append(ids[np.argsort(-values, kind="stable")])
        return joined

    def score(self, one: int, other: int) -> float:
        """ROUGE-L F1 where it is above the threshold, else 0."""
        total = len(self.codes[one]) + len(self.codes[other])
        found = _lcs(self.codes[one], self.codes[other], need(total, self.above))
        return 2 * found / total if found else 0.0


def _blocks(first: int, last: int) -> Iterator[NDArray[np.int64]]:
    for start in range(first, last, BLOCK):
        yield np.arange(start, min(start + BLOCK, last))


def first_similar(
    texts: Sequence[str],
    above: float,
    known: Sequence[str] = (),
    *,
    among: bool = True,
) -> Iterator[Match | None]:
    """For each text a near-duplicate among `known` and the earlier texts that have none themselves; else None.

    So the texts without one are a set without near-duplicates, and the first of each group is in it. A place counts
    `known` first. among: False compares with `known` only.
    """
    ready = _Texts([*known, *texts], above)
    kept = list(range(len(known)))
    for block in _blocks(len(known), len(known) + len(texts)):
        others = np.concatenate([np.array(kept, dtype=np.int64), block]) if among else np.arange(len(known))
        inside: set[int] = set()
        for row, candidates in zip(block.tolist(), ready.candidates(block, others), strict=True):
            match = None
            for other in candidates.tolist():
                if other >= block[0] and other not in inside:
                    continue  # itself, a later one, or one that was dropped
                if score := ready.score(row, other):
                    match = Match(other, score)
                    break
            if match is None and among:
                inside.add(row)
                kept.append(row)
            yield match


def similar_pairs(texts: Sequence[str], above: float, *, tell: Tell = lambda count: None) -> Iterator[Pair]:
    """All pairs of near-duplicates."""
    ready = _Texts(texts, above)
    for block in _blocks(0, len(texts)):
        for row, candidates in zip(block.tolist(), ready.candidates(block, np.arange(block[-1] + 1)), strict=True):
            for other in sorted(candidates.tolist()):
                if other < row and (score := ready.score(row, other)):
                    yield Pair(row, other, score)
        tell(len(block))


def clusters(
    texts: Sequence[str], above: float, joined: Sequence[tuple[int, int]] = (), *, tell: Tell = lambda count: None
) -> list[int]:
    """For each text the first text of its cluster: whatever is linked by near-duplicates, or by `joined`, is one."""
    parent = list(range(len(texts)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(one: int, other: int) -> None:
        first, second = sorted((root(one), root(other)))
        parent[second] = first

    for one, other in joined:
        join(one, other)
    ready = _Texts(texts, above)
    for block in _blocks(0, len(texts)):
        for row, candidates in zip(block.tolist(), ready.candidates(block, np.arange(block[-1] + 1)), strict=True):
            for other in candidates.tolist():
                if other < row and root(other) != root(row) and ready.score(row, other):
                    join(row, other)
        tell(len(block))
    return [root(item) for item in range(len(texts))]
