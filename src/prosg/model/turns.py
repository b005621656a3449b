"""A conversation as a text: what of it memory holds, and the steps in which the rest is read.

A conversation is tokenised turn by turn, so that one more turn leaves the ids before it as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prosg.data.templates import NONE, ChatTemplate, FramedPrompt, Turn, no_system_turn, without_blank_lines
from prosg.tokenizers.base import Tokenizer

__all__ = ["clean_answer", "conversation_text", "held_prompt", "later_ids", "opening_text", "with_answer"]


def conversation_text(turns: Sequence[Turn], template: ChatTemplate) -> FramedPrompt:
    """Writes turns up to where the assistant answers; under template none with a blank line before each question.

    Raises:
        ValueError: for turns that the template cannot write.
    """
    if template != NONE:
        return template.frame(turns)
    if turns[0].role == "system":
        raise ValueError(no_system_turn("none"))
    text = ""
    for turn in turns:
        text += ("\n\n" if text and turn.role == "user" else "") + turn.text
    return FramedPrompt(text)


def opening_text(turns: Sequence[Turn], template: ChatTemplate, whole: FramedPrompt) -> FramedPrompt:
    """What memory holds of a text in which a conversation begins: the system's turn, or without one all of the text."""
    opening = template.opening(turns[0]) if turns[0].role == "system" else None
    return whole.before(len(opening)) if opening and whole.text.startswith(opening) else whole


def held_prompt(turns: Sequence[Turn], template: ChatTemplate) -> FramedPrompt:
    """What memory holds of a conversation: the system's turn, or else the user's first one.

    Raises:
        ValueError: for turns that the template cannot write.
    """
    whole = conversation_text(turns, template)
    asked = next(place for place, turn in enumerate(turns, 1) if turn.role == "user")
    held = opening_text(turns, template, conversation_text(turns[:asked], template))
    return held if whole.text.startswith(held.text) else opening_text(turns, template, whole)


def clean_answer(answer: str, template: ChatTemplate) -> str:
    """An answer as the template will write it."""
    while template.reshapes and (clean := without_blank_lines(answer).strip()) != answer:
        answer = clean
    return answer


def with_answer(text: str, answer: str, template: ChatTemplate) -> FramedPrompt:
    """A conversation's text with the answer to it."""
    return FramedPrompt(text + (f" {answer}" if template.reshapes else answer))


def later_ids(turns: Sequence[Turn], held: FramedPrompt, template: ChatTemplate, tokenizer: Tokenizer) -> list[int]:
    """Token ids of what follows the held prompt, up to where the assistant answers.

    Args:
        turns: The whole conversation, which ends with the user's turn.
        held: The beginning of its text.
        template: How turns are written.
        tokenizer: Of the model.

    Raises:
        ValueError: for turns that the template cannot write, and where their text does not begin with `held`.
    """
    whole = conversation_text(turns, template)
    if not whole.text.startswith(held.text):
        raise ValueError("the chat template writes the prompt otherwise in a conversation; send all of it as messages")
    ids: list[int] = []
    read = held.text
    for step in _steps(turns, template):
        # A model's own template may write earlier turns otherwise later on: such steps are read as one.
        if len(step.text) > len(read) and step.text.startswith(read) and whole.text.startswith(step.text):
            ids += step.after(len(read)).ids(tokenizer)
            read = step.text
    return ids


def _steps(turns: Sequence[Turn], template: ChatTemplate) -> Iterator[FramedPrompt]:
    """The texts up to each question and each answer of a conversation."""
    last: FramedPrompt | None = None
    for place, turn in enumerate(turns):
        if turn.role == "user":
            last = conversation_text(turns[: place + 1], template)
            yield last
        elif turn.role == "assistant" and last is not None:
            last = with_answer(last.text, clean_answer(turn.text, template), template)
            yield last
