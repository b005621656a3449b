"""Generation of rows from grammars: contents of a split, a story of some length, difficulty options.

A row is a function of (seed, split, kind, index), the length of the story and the difficulty, so that a longer file
begins with the shorter one. An index gives the same contents, turns and distractors at every length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from prosg.data.row import Row
from prosg.data.synthetic.difficulty import (
    PLAIN,
    Difficulty,
    Range,
    among_distractors,
    check_range,
    share_no_word,
    turn_parts,
    with_turns,
)
from prosg.data.synthetic.grammar import AnswerPart, Contents, Grammar, row_from_draft
from prosg.data.synthetic.registry import DEMO_KINDS, KINDS
from prosg.data.synthetic.splits import SPLITS, split_of
from prosg.data.synthetic.story import SentenceSource, Story, made_sentences, story_of_sentences, story_of_words
from prosg.utils.spelling import meant

__all__ = ["SENTENCES", "draw_contents", "iter_rows", "make_row", "make_rows"]

SENTENCES = (1, 5)
"""Sentences of a story in the demo's training data, about 46 tokens at most."""
TURN_DRAWS = 5_000
"""Most draws of contents for another turn that share no word with the prompt's."""


def _grammar(name: str) -> Grammar:
    if name not in KINDS:
        raise ValueError(f"unknown kind {name!r}{meant(name, KINDS)}; allowed: {', '.join(KINDS)}")
    return KINDS[name]


def draw_contents(grammar: Grammar, rng: Random, split: str | None, items: Range | None) -> Contents:
    """Draws contents of a split, of any where it is None, with so many items; None: as many as the kind has."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}{meant(split, SPLITS)}; allowed: {', '.join(SPLITS)}")
    while True:
        if items is None or grammar.items is None:
            contents = grammar.draw(rng)
        else:
            contents = grammar.items.draw(rng, rng.randint(*items))
        if split is None or split_of(grammar.name, contents) == split:
            return contents


def _draw_turn(grammar: Grammar, rng: Random, split: str | None, items: Range | None, first: Contents) -> Contents:
    for _ in range(TURN_DRAWS):
        contents = draw_contents(grammar, rng, split, items)
        if share_no_word(first, contents):
            return contents
    raise ValueError(
        f"turns: found no contents of kind {grammar.name!r} that share no word with those of the prompt; give fewer "
        "items"
    )


def _story(
    grammar: Grammar,
    contents: Contents,
    rng: Random,
    sentences: Range,
    distance: Range | None,
    turns: Sequence[AnswerPart],
    source: SentenceSource,
) -> Story | None:
    """The story of a row with these turns after it; None for the single-stage form."""
    if distance is None:
        check_range("sentences", sentences)
        count = rng.randint(*sentences)
        return story_of_sentences(rng, count, source) if count else None
    check_range("distance", distance)
    if not grammar.staged:
        raise ValueError(f"kind {grammar.name!r} has no late stage, so no distance; give its length in sentences")
    spare = grammar.spare(contents) + sum(len(part.text.split()) for part in turns)
    low, high = distance[0] - spare, distance[1] - spare
    if high < 0:
        raise ValueError(
            f"distance is at most {distance[1]}, but kind {grammar.name!r} has {spare} words before its last stage "
            "already; allowed: more than that"
        )
    return story_of_words(rng, max(low, 1), high, source) if high else None


def make_row(
    kind: str,
    rng: Random,
    sentences: Range = SENTENCES,
    *,
    distance: Range | None = None,
    split: str | None = None,
    difficulty: Difficulty = PLAIN,
) -> Row:
    """Generates one row.

    Args:
        kind: A name in `KINDS`.
        rng: Source of all draws.
        sentences: Number of sentences of the story; (0, 0) for the single-stage form without a story.
        distance: Number of words of the answer before the late stage, instead of `sentences`.
        split: Split of the contents; None: any.
        difficulty: Difficulty options.

    Returns:
        The row, with its `contents` and, if there are any, those of its other `turns` in `extra`.

    Raises:
        ValueError: For an unknown kind or split, a distance that no whole sentences have, and a difficulty that the
            kind does not support.
    """
    grammar = _grammar(kind)
    difficulty.check(grammar)
    contents = draw_contents(grammar, rng, split, difficulty.items)
    turns: list[Contents] = []
    parts: list[AnswerPart] = []
    difficulty_rng = rng
    if difficulty.turns is not None or difficulty.distractors is not None:
        difficulty_rng = Random(rng.getrandbits(64))  # since the number of the story's draws depends on its length
    if difficulty.turns is not None:
        count = difficulty_rng.randint(*difficulty.turns)
        turns = [_draw_turn(grammar, difficulty_rng, split, difficulty.items, contents) for _ in range(count)]
        parts = turn_parts(grammar, turns, difficulty_rng)
    source: SentenceSource = made_sentences
    if difficulty.filler is not None:
        source = difficulty.filler.source(
            split, [word for values in (contents, *turns) for value in values for word in value.split()]
        )
    story = _story(grammar, contents, rng, sentences, distance, parts, source)
    draft = grammar.build(contents, rng, story)
    if difficulty.turns is not None:
        draft = with_turns(draft, parts)
    if difficulty.distractors is not None:
        draft = draft._replace(prompt=among_distractors(draft.prompt, difficulty.distractors, difficulty_rng))
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
    difficulty: Difficulty = PLAIN,
) -> Iterator[Row]:
    """Generates rows of several kinds, which take turns.

    Args:
        kinds: Names in `KINDS`, each once.
        size: Number of rows.
        seed: Seed of all draws.
        split: Split of the contents.
        distance: As in `make_row`.
        sentences: As in `make_row`.
        difficulty: As in `make_row`.

    Raises:
        ValueError: As `make_row`, when the first row is drawn.
    """
    if not kinds or len(set(kinds)) != len(kinds):
        raise ValueError(f"kinds are {', '.join(kinds) or 'none'}; name at least one, each once: {', '.join(KINDS)}")
    for name in kinds:
        difficulty.check(_grammar(name))
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    if difficulty.filler is not None and distance is None and sentences[1] == 0:
        raise ValueError("filler: with 0 sentences there is no story that its text could stand for")
    for index in range(size):
        kind = kinds[index % len(kinds)]
        rng = Random(f"{seed}/{split}/{kind}/{index}")
        row = make_row(kind, rng, sentences, distance=distance, split=split, difficulty=difficulty)
        # The derived id distinguishes lengths; seed and index distinguish rows with equal texts.
        yield replace(row, id=f"{kind}-{split}-{seed}-{index:05d}-{row.id[:6]}")


def make_rows(
    kinds: Sequence[str] = DEMO_KINDS,
    size: int = 1000,
    seed: int = 0,
    split: str = "train",
    *,
    distance: Range | None = None,
    sentences: Range = SENTENCES,
    difficulty: Difficulty = PLAIN,
) -> list[Row]:
    """`iter_rows` as a list."""
    return list(iter_rows(kinds, size, seed, split, distance=distance, sentences=sentences, difficulty=difficulty))
