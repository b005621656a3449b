"""Making rows: contents of the wanted split, a story of the wanted length, ids that stay.

A row is a function of (seed, split, kind, index), the wanted length and the setting only, so a longer file begins with
the shorter one. Contents are drawn first: the same index gives the same contents, turns and distractors at every
distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from prosg.data.row import Row
from prosg.data.synthetic.base import Contents, Kind, Part, row_from_draft
from prosg.data.synthetic.registry import DEMO_KINDS, KINDS
from prosg.data.synthetic.setting import (
    PLAIN,
    Range,
    Setting,
    among_distractors,
    are_apart,
    check_range,
    turn_parts,
    with_turns,
)
from prosg.data.synthetic.splits import SPLITS, split_of
from prosg.data.synthetic.story import Sentences, Story, made_here, story_of_sentences, story_of_words

__all__ = ["SENTENCES", "iter_rows", "make_row", "make_rows"]

SENTENCES = (1, 5)  # the demo's training range, about 46 tokens at most
TRIES = 5_000
"""Contents drawn for another turn before it is given up to find some that share nothing with the prompt's."""


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r}; allowed: {', '.join(KINDS)}")
    return KINDS[name]


def _draw(kind: Kind, rng: Random, split: str | None, items: Range | None) -> Contents:
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    while True:
        counted = None if items is None else kind.items
        contents = kind.draw(rng) if counted is None else counted.draw(rng, rng.randint(*items or (0, 0)))
        if split is None or split_of(kind.name, contents) == split:
            return contents


def _draw_turn(kind: Kind, rng: Random, split: str | None, items: Range | None, first: Contents) -> Contents:
    for _ in range(TRIES):
        contents = _draw(kind, rng, split, items)
        if are_apart(first, contents):
            return contents
    raise ValueError(
        f"turns: found no contents of kind {kind.name!r} that share no word with those of the prompt; give fewer items"
    )


def _story(
    kind: Kind,
    contents: Contents,
    rng: Random,
    sentences: Range,
    distance: Range | None,
    turns: Sequence[Part],
    source: Sentences,
) -> Story | None:
    """The story of a row that has `turns` after it; None where there is none."""
    if distance is None:
        check_range("sentences", sentences)
        count = rng.randint(*sentences)
        return story_of_sentences(rng, count, source) if count else None
    check_range("distance", distance)
    if not kind.staged:
        raise ValueError(f"kind {kind.name!r} has no late stage, so no distance; give its length in sentences")
    spare = kind.spare(contents) + sum(len(part.text.split()) for part in turns)
    low, high = distance[0] - spare, distance[1] - spare
    if high < 0:
        raise ValueError(f"kind {kind.name!r} has {spare} words before its last stage already; allowed: more than that")
    return story_of_words(rng, max(low, 1), high, source) if high else None


def make_row(
    kind: str,
    rng: Random,
    sentences: Range = SENTENCES,
    *,
    distance: Range | None = None,
    split: str | None = None,
    setting: Setting = PLAIN,
) -> Row:
    """One row of a kind.

    sentences: least and greatest number of sentences of the story; (0, 0) leaves it out (the single-stage form).
    distance: instead, least and greatest number of words of the answer before the late stage.
    split: keep drawing contents until they belong to this split; None takes any.
    setting: what makes the row harder; where there are turns, the row says their contents as `turns`.
    Raises ValueError for unknown kinds and splits, for a distance that whole sentences cannot give, and for a setting
    that the kind cannot have.
    """
    grammar = _kind(kind)
    setting.check(grammar)
    contents = _draw(grammar, rng, split, setting.items)
    turns: list[Contents] = []
    parts: list[Part] = []
    beside = rng
    if setting.turns is not None or setting.distractors is not None:
        beside = Random(rng.getrandbits(64))  # apart from the story's draws, whose number depends on its length
    if setting.turns is not None:
        count = beside.randint(*setting.turns)
        turns = [_draw_turn(grammar, beside, split, setting.items, contents) for _ in range(count)]
        parts = turn_parts(grammar, turns, beside)
    source: Sentences = made_here
    if setting.filler is not None:
        given = (word for values in (contents, *turns) for value in values for word in value.split())
        source = setting.filler.source(split, list(given))
    story = _story(grammar, contents, rng, sentences, distance, parts, source)
    draft = grammar.build(contents, rng, story)
    if setting.turns is not None:
        draft = with_turns(draft, parts)
    if setting.distractors is not None:
        draft = draft._replace(prompt=among_distractors(draft.prompt, setting.distractors, beside))
    row = row_from_draft(grammar, contents, draft)
    return replace(row, extra={**row.extra, "turns": [list(values) for values in turns]}) if turns else row


def iter_rows(
    kinds: Sequence[str] = DEMO_KINDS,
    size: int = 1000,
    seed: int = 0,
    split: str = "train",
    *,
    distance: Range | None = None,
    sentences: Range = SENTENCES,
    setting: Setting = PLAIN,
) -> Iterator[Row]:
    """`size` rows, the kinds in turn; see `make_row` for the length. Raises ValueError for what is not allowed."""
    if not kinds or len(set(kinds)) != len(kinds):
        raise ValueError(f"kinds are {', '.join(kinds) or 'none'}; name at least one, each once: {', '.join(KINDS)}")
    for name in kinds:
        setting.check(_kind(name))
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    if setting.filler is not None and distance is None and sentences[1] == 0:
        raise ValueError("filler: with 0 sentences there is no story that its text could stand for")
    for index in range(size):
        kind = kinds[index % len(kinds)]
        rng = Random(f"{seed}/{split}/{kind}/{index}")
        row = make_row(kind, rng, sentences, distance=distance, split=split, setting=setting)
        # The derived id tells rows of other lengths apart, seed and index rows that happen to read the same.
        yield replace(row, id=f"{kind}-{split}-{seed}-{index:05d}-{row.id[:6]}")


def make_rows(
    kinds: Sequence[str] = DEMO_KINDS,
    size: int = 1000,
    seed: int = 0,
    split: str = "train",
    *,
    distance: Range | None = None,
    sentences: Range = SENTENCES,
    setting: Setting = PLAIN,
) -> list[Row]:
    """`iter_rows` as a list."""
    return list(iter_rows(kinds, size, seed, split, distance=distance, sentences=sentences, setting=setting))
