"""Difficulties of a measurement: all combinations of prompt lengths, numbers of turns and numbers of items.

Prompt lengths are given in tokens and reached by distractors, whose number of words follows from the tokens per word of
made sentences.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from prosg.data.synthetic.difficulty import Difficulty, Range
from prosg.data.synthetic.filler import Filler
from prosg.data.synthetic.row_generator import make_rows
from prosg.data.synthetic.story import story_of_sentences
from prosg.tokenizers.base import Tokenizer

__all__ = ["difficulty_grid"]

SAMPLE = 200
"""Sentences on which tokens per word are measured."""
TOLERANCE = 4
"""Words by which distractors may miss the wanted number, since sentences are whole."""


def difficulty_grid(
    tokenizer: Tokenizer,
    kinds: Sequence[str],
    seed: int,
    split: str,
    *,
    prompt_tokens: Sequence[int] = (),
    turns: Sequence[int] = (),
    items: Sequence[int] = (),
    filler: Filler | None = None,
) -> list[Difficulty]:
    """All combinations of the given values; an empty sequence switches an option off.

    Args:
        tokenizer: The model's tokenizer.
        kinds: Kinds of instruction that are measured.
        seed: Seed of the rows on which lengths are measured.
        split: Split of these rows.
        prompt_tokens: Mean lengths of prompts, in tokens.
        turns: Numbers of other turns before the late stage.
        items: Numbers of items that prompts give.
        filler: Text that stories are taken from.

    Raises:
        ValueError: For a prompt length below that of the kinds' prompts without distractors.
    """
    grid = []
    for tokens, turn_count, item_count in itertools.product(
        prompt_tokens or (None,), turns or (None,), items or (None,)
    ):
        difficulty = Difficulty(turns=_exactly(turn_count), items=_exactly(item_count), filler=filler)
        if tokens is not None:
            words = _distractor_words(tokenizer, kinds, seed, split, difficulty, tokens)
            difficulty = replace(difficulty, distractors=(max(words - TOLERANCE, 0), words + TOLERANCE))
        grid.append(difficulty)
    return grid


def _exactly(number: int | None) -> Range | None:
    return None if number is None else (number, number)


def _distractor_words(
    tokenizer: Tokenizer, kinds: Sequence[str], seed: int, split: str, difficulty: Difficulty, tokens: int
) -> int:
    """Words of distractors with which prompts have `tokens` tokens, on average over kinds."""
    rows = make_rows(kinds, 8 * len(kinds), seed, split, sentences=(1, 1), difficulty=difficulty)
    bare_tokens = sum(len(tokenizer.encode(row.prompt)) for row in rows) / len(rows)
    if tokens < bare_tokens:
        raise ValueError(
            f"prompt_tokens is {tokens}, but prompts have {bare_tokens:.0f} tokens without distractors; give more"
        )
    text = story_of_sentences(Random(seed), SAMPLE).text
    return round((tokens - bare_tokens) * (text.count(" ") + 1) / len(tokenizer.encode(text)))
