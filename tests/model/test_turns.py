"""Conversations as text: what is held, and ids that one more turn leaves as they were."""

from __future__ import annotations

import pytest

from prosg.data.templates import NONE, TEMPLATES, FramedPrompt, Turn
from prosg.model.turns import conversation_text, held_prompt, later_ids
from support.models import word_tokenizer

TURNS = [Turn("system", "Tom saw"), Turn("user", "a b"), Turn("assistant", "c\n\n d"), Turn("user", "red.")]


def test_the_system_turn_is_held_or_else_the_first_question() -> None:
    world = TEMPLATES["world"]
    assert held_prompt(TURNS, world).text == "System: Tom saw\n\n"
    assert held_prompt(TURNS[1:], world).text == "User: a b\n\nAssistant:"
    assert held_prompt(TURNS[1:2], NONE).text == "a b"


@pytest.mark.parametrize("template", [TEMPLATES["world"], TEMPLATES["raven"], NONE])
def test_one_more_turn_leaves_the_ids_before_it(template: object) -> None:
    turns = TURNS[1:] if template == NONE else TURNS
    tokenizer = word_tokenizer()
    held = held_prompt(turns, template)  # type: ignore[arg-type]
    ids = [later_ids(turns[:end], held, template, tokenizer) for end in (len(turns) - 2, len(turns))]  # type: ignore[arg-type]
    assert ids[1][: len(ids[0])] == ids[0] and len(ids[1]) > len(ids[0])
    text = conversation_text(turns, template).text  # type: ignore[arg-type]
    assert text.startswith(held.text)
    assert ("c\n d" in text) == (template != NONE)  # blank lines end turns


def test_another_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="template"):
        later_ids(TURNS, FramedPrompt("System: Ben"), TEMPLATES["world"], word_tokenizer())
    with pytest.raises(ValueError, match="system"):
        conversation_text(TURNS, NONE)
