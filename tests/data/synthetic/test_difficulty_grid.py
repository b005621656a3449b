"""All combinations of difficulty options."""

from __future__ import annotations

import pytest

from prosg.data.synthetic import Difficulty, make_rows
from prosg.data.synthetic.difficulty_grid import difficulty_grid
from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.json_file import JsonTokenizer

KINDS = ("code", "names")


@pytest.fixture(scope="module")
def tokenizer() -> JsonTokenizer:
    return train_bpe([text for row in make_rows(size=60) for text in (row.prompt, row.answer)], 300)


def test_every_combination_is_a_difficulty(tokenizer: JsonTokenizer) -> None:
    grid = difficulty_grid(tokenizer, KINDS, 0, "test", prompt_tokens=[120, 400], turns=[1], items=[4, 6, 8])
    assert [(cell.turns, cell.items) for cell in grid] == [((1, 1), (n, n)) for n in (4, 6, 8)] * 2
    for difficulty, tokens in zip(grid, [120] * 3 + [400] * 3, strict=True):
        rows = make_rows(KINDS, 20, 1, "test", difficulty=difficulty)
        assert sum(len(tokenizer.encode(row.prompt)) for row in rows) / 20 == pytest.approx(tokens, rel=0.07)
    assert difficulty_grid(tokenizer, KINDS, 0, "test") == [Difficulty()]


def test_a_prompt_length_below_that_of_bare_prompts_is_an_error(tokenizer: JsonTokenizer) -> None:
    with pytest.raises(ValueError, match=r"prompt_tokens is 3,.* give more"):
        difficulty_grid(tokenizer, KINDS, 0, "test", prompt_tokens=[3])
