"""Grammars of instructions, and rows from what they write.

A grammar draws *contents* (the values that the prompt gives and a late stage needs) and builds from them a prompt and
the parts of the answer. Every part is a line of its own, opened by a label such as "Names:". As a stage of the row it
has the marker "\\n" + label; the first part has the marker "".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from prosg.data.checks import Check
from prosg.data.row import Row, Stage, derived_id
from prosg.data.synthetic.story import Story
from prosg.data.synthetic.words import NUMBERS

__all__ = [
    "AnswerPart",
    "Contents",
    "Grammar",
    "ItemCount",
    "RowDraft",
    "listing",
    "row_from_draft",
    "story_part",
    "story_phrase",
]

Contents = tuple[str, ...]


class AnswerPart(NamedTuple):
    """A line of an answer, which becomes a stage.

    Attributes:
        instruction: What the prompt asks for.
        label: Opens the line; "" for a story without label.
        body: The line after the label.
        check: Check of the whole line.
        given: As `Stage.given`: words of another turn, read and not written.
    """

    instruction: str
    label: str
    body: str
    check: Check
    given: bool = False

    @property
    def text(self) -> str:
        """The whole line."""
        return f"{self.label} {self.body}" if self.label else self.body


class RowDraft(NamedTuple):
    """A prompt and the parts of its answer."""

    prompt: str
    parts: Sequence[AnswerPart]


class ItemCount(NamedTuple):
    """Range of the number of items that a prompt can give.

    Attributes:
        unit: What is counted, in the plural.
        least: Smallest number.
        most: Greatest number.
        draw: Draws contents with a given number of items.
    """

    unit: str
    least: int
    most: int
    draw: Callable[[Random, int], Contents]


@dataclass(frozen=True)
class Grammar:
    """Grammar of one kind of instruction.

    Attributes:
        name: The kind.
        draw: Draws contents. Splits hash them without regard to order.
        build: Builds a draft from contents and a story; with None the single-stage form, without a story.
        leaks: The answer restates what the late stage needs, so the kind is left out of forgetting curves.
        spare: Number of words of the answer before the late stage that are not the story's.
        staged: Rows have stages. A plain story has none, so that no part of it has a higher weight in training.
        items: Range of the number of items; None where it is fixed.
        one_late: Only one stage follows the story, so that other turns can come between the two.
    """

    name: str
    draw: Callable[[Random], Contents]
    build: Callable[[Contents, Random, Story | None], RowDraft]
    leaks: bool = False
    spare: Callable[[Contents], int] = lambda contents: 0
    staged: bool = True
    items: ItemCount | None = None
    one_late: bool = True

    @property
    def takes_turns(self) -> bool:
        """Whether other turns can come before the late stage."""
        return self.staged and self.one_late and not self.leaks


def listing(items: Sequence[str]) -> str:
    """Joins items as in a sentence: a, b, c and d."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]


def story_phrase(story: Story, rng: Random, *, counted: bool = True) -> tuple[str, Check]:
    """Draws a phrase by which a prompt asks for a story.

    Args:
        story: The story that the answer tells.
        rng: Source of the draw.
        counted: The phrase may state the number of sentences. Numbers up to ten are spelled out, since digits are
            reserved for contents; greater ones are not stated.

    Returns:
        The phrase and the check that goes with it.
    """
    phrases = ["a story", "a short story" if story.sentences <= 5 else "a long story"]
    if counted and story.sentences <= len(NUMBERS):
        number = NUMBERS[story.sentences - 1]
        phrases.append(f"a story of {number} sentence{'s' if story.sentences > 1 else ''}")
    chosen = rng.randrange(len(phrases))
    if chosen < 2:
        return phrases[chosen], {"type": "sentences", "min": 1}
    return phrases[chosen], {"type": "sentences", "min": story.sentences, "max": story.sentences}


def story_part(story: Story, check: Check) -> AnswerPart:
    """A story as a part of an answer, without a label."""
    return AnswerPart("tell a story", "", story.text, check)


def row_from_draft(grammar: Grammar, contents: Contents, draft: RowDraft) -> Row:
    """Joins the parts of a draft to an answer, one per line, with their places as stages."""
    answer = ""
    stages = []
    for part in draft.parts:
        marker = "\n" + part.label if answer else ""
        stages.append(Stage(part.instruction, part.check, len(answer), marker, part.given))
        answer += ("\n" if answer else "") + part.text
    return Row(
        id=derived_id(draft.prompt, answer),
        kind=grammar.name,
        prompt=draft.prompt,
        answer=answer,
        stages=tuple(stages) if grammar.staged else (),
        distance_words=len(answer[: stages[-1].start].split()),
        leaks=grammar.leaks,
        extra={"contents": list(contents)},
    )
