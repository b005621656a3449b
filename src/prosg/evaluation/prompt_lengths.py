"""The settings that one measurement goes through: every combination of prompt lengths, turns and items asked for.

Lengths are asked for in tokens of the model's tokenizer, distractors are counted in words: how many words a token takes
is measured on the sentences that they are made of.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

from prosg.data.synthetic import Filler, Setting, make_rows
from prosg.data.synthetic.story import story_of_sentences
from prosg.tokenizers.base import Tokenizer

__all__ = ["settings_of"]

SAMPLE = 200
"""Sentences on which tokens per word are measured."""
SPREAD = 4
"""Words more or less than wanted, since sentences are whole."""


def settings_of(
    tokenizer: Tokenizer,
    kinds: Sequence[str],
    seed: int,
    split: str,
    *,
    prompt_tokens: Sequence[int] = (),
    turns: Sequence[int] = (),
    items: Sequence[int] = (),
    filler: Filler | None = None,
) -> list[Setting]:
    """One setting for every combination; what is not asked for stays as it is.

    prompt_tokens: lengths of prompts, tokens; distractors fill them up. turns: other turns before the late stage.
    items: items that prompts give.
    Raises ValueError for a prompt length that prompts have without distractors already.
    """
    found = []
    for tokens, turn, item in itertools.product(prompt_tokens or (None,), turns or (None,), items or (None,)):
        setting = Setting(
            turns=None if turn is None else (turn, turn), items=None if item is None else (item, item), filler=filler
        )
        if tokens is not None:
            words = _words(tokenizer, kinds, seed, split, setting, tokens)
            around = (max(words - SPREAD, 0), words + SPREAD)
            setting = Setting(around, setting.filler, setting.turns, setting.items)
        found.append(setting)
    return found


def _words(tokenizer: Tokenizer, kinds: Sequence[str], seed: int, split: str, setting: Setting, tokens: int) -> int:
    """Words of distractors that make prompts of `tokens` tokens, on average over kinds."""
    rows = make_rows(kinds, 8 * len(kinds), seed, split, sentences=(1, 1), setting=setting)
    bare = sum(len(tokenizer.encode(row.prompt)) for row in rows) / len(rows)
    if tokens < bare:
        raise ValueError(
            f"prompt_tokens is {tokens}, but these prompts have {bare:.0f} tokens by themselves; give more"
        )
    text = story_of_sentences(Random(seed), SAMPLE).text
    return round((tokens - bare) * (text.count(" ") + 1) / len(tokenizer.encode(text)))
