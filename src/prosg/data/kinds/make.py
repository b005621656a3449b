"""Making rows: contents of the wanted split, a story of the wanted length, ids that stay.

A row is a function of (seed, split, kind, index) and the wanted length only, so a longer file begins with the shorter
one. Contents are drawn first: the same index gives the same contents at every distance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from prosg.data.kinds.base import Contents, Kind, row_from_draft
from prosg.data.kinds.registry import DEMO_KINDS, KINDS
from prosg.data.kinds.story import story_of_sentences, story_of_words
from prosg.data.record import Row

__all__ = ["SENTENCES", "SPLITS", "iter_rows", "make_row", "make_rows", "split_of"]

SPLITS = ("train", "validation", "test")
SENTENCES = (1, 5)  # the demo's training range, about 46 tokens at most


def split_of(kind: str, contents: Sequence[str]) -> str:
    """The split that contents belong to: by sha256 of the kind and the *unordered* values, 80 / 10 / 10."""
    key = "\0".join((kind, *sorted(contents)))
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 10
    return SPLITS[max(0, bucket - 7)]


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r}; allowed: {', '.join(KINDS)}")
    return KINDS[name]


def _range(name: str, pair: tuple[int, int]) -> None:
    if not 0 <= pair[0] <= pair[1]:
        raise ValueError(f"{name} is {pair[0]} to {pair[1]}; it must be 0 or more, the smaller number first")


def _draw(kind: Kind, rng: Random, split: str | None) -> Contents:
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    while True:
        contents = kind.draw(rng)
        if split is None or split_of(kind.name, contents) == split:
            return contents


def make_row(
    kind: str,
    rng: Random,
    sentences: tuple[int, int] = SENTENCES,
    *,
    distance: tuple[int, int] | None = None,
    split: str | None = None,
) -> Row:
    """One row of a kind.

    sentences: least and greatest number of sentences of the story; (0, 0) leaves it out (the single-stage form).
    distance: instead, least and greatest number of words of the answer before the late stage.
    split: keep drawing contents until they belong to this split; None takes any.
    Raises ValueError for unknown kinds and splits, and for a distance that whole sentences cannot give.
    """
    grammar = _kind(kind)
    contents = _draw(grammar, rng, split)
    story = None
    if distance is None:
        _range("sentences", sentences)
        count = rng.randint(*sentences)
        story = story_of_sentences(rng, count) if count else None
    else:
        _range("distance", distance)
        if not grammar.staged:
            raise ValueError(f"kind {kind!r} has no late stage, so no distance; give its length in sentences")
        spare = grammar.spare(contents)
        low, high = distance[0] - spare, distance[1] - spare
        if high < 0:
            raise ValueError(f"kind {kind!r} has {spare} words before its last stage already; allowed: more than that")
        story = story_of_words(rng, max(low, 1), high) if high else None
    return row_from_draft(grammar, contents, grammar.build(contents, rng, story))


def iter_rows(
    kinds: Sequence[str] = DEMO_KINDS,
    size: int = 1000,
    seed: int = 0,
    split: str = "train",
    *,
    distance: tuple[int, int] | None = None,
    sentences: tuple[int, int] = SENTENCES,
) -> Iterator[Row]:
    """`size` rows, the kinds in turn; see `make_row` for the length. Raises ValueError for what is not allowed."""
    if not kinds or len(set(kinds)) != len(kinds):
        raise ValueError(f"kinds are {', '.join(kinds) or 'none'}; name at least one, each once: {', '.join(KINDS)}")
    for name in kinds:
        _kind(name)
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    for index in range(size):
        kind = kinds[index % len(kinds)]
        rng = Random(f"{seed}/{split}/{kind}/{index}")
        row = make_row(kind, rng, sentences, distance=distance, split=split)
        # The derived id tells rows of other lengths apart, seed and index rows that happen to read the same.
        yield replace(row, id=f"{kind}-{split}-{seed}-{index:05d}-{row.id[:6]}")


def make_rows(
    kinds: Sequence[str] = DEMO_KINDS,
    size: int = 1000,
    seed: int = 0,
    split: str = "train",
    *,
    distance: tuple[int, int] | None = None,
    sentences: tuple[int, int] = SENTENCES,
) -> list[Row]:
    """`iter_rows` as a list."""
    return list(iter_rows(kinds, size, seed, split, distance=distance, sentences=sentences))
