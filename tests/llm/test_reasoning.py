"""Reasoning and answers, told apart."""

from __future__ import annotations

import pytest

from prosg.llm.reasoning import Separated, separate

CHANNEL = "<|channel|>"


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("<think>why {1}</think>Yes.", "Yes.", "why {1}"),
        ("\n<think>\nwhy\n</think>\n\nYes.\nNo.", "Yes.\nNo.", "why"),
        ("why\n</think>\nYes.", "Yes.", "why"),
        ("<think>why", "", "why"),
        ("<think></think>\n\nYes.", "Yes.", ""),
        ("<thinking>why</thinking>Yes.", "Yes.", "why"),
        ("<THINK>why</THINK> Yes.", "Yes.", "why"),
        ("<reasoning>why</reasoning>\nYes.", "Yes.", "why"),
        ('<thought type="long">why</thought>Yes.', "Yes.", "why"),
        ("[THINK]why[/THINK]Yes.", "Yes.", "why"),
        ("◁think▷why◁/think▷Yes.", "Yes.", "why"),
        ("<|begin_of_thought|>why<|end_of_thought|>Yes.", "Yes.", "why"),
        ("<|START_THINKING|>why<|END_THINKING|>Yes.", "Yes.", "why"),
        ("<seed:think>why</seed:think>Yes.", "Yes.", "why"),
        (f"{CHANNEL}analysis<|message|>why<|end|>{CHANNEL}final<|message|>Yes.<|return|>", "Yes.", "why"),
        ("<think>a<think>b</think>c</think>Yes.", "Yes.", "a\nb\nc"),
        ("<think>a</think>One.<think>b</think>", "One.", "a\nb"),
        ("Yes.\n<think>why", "Yes.", "why"),
    ],
)  # fmt: skip
def test_what_stands_between_tags_is_no_answer(text: str, answer: str, reasoning: str) -> None:
    assert separate(text) == Separated(answer, reasoning)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " Yes. ",
        "I think so.",
        "a < think > b?",
        "The tag `<think>` opens.",
        'Say "<think>".',
        "<thinker>",
        "[reasons]",
    ],
)
def test_a_text_without_tags_is_left_as_it_is(text: str) -> None:
    assert separate(text) == Separated(text, "")
