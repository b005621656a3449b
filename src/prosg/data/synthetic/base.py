"""What a kind is, and how the parts that it writes become a row.

A kind draws *contents* (the values that a prompt gives and a late stage needs), then builds a prompt and the answer's
parts from them. A part stands on its own line and is opened by its label ("Names:"); the first part of an answer has
the marker "", the others "\\n" + label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from prosg.data.row import Row, Stage, derived_id
from prosg.data.synthetic.story import Story
from prosg.data.synthetic.words import NUMBERS

__all__ = ["Contents", "Draft", "Items", "Kind", "Part", "listing", "row_from_draft", "story_part", "story_phrase"]

Contents = tuple[str, ...]
Check = dict[str, Any]


class Part(NamedTuple):
    """One stage to be: its instruction, the label that opens its line ("" for a story), its text and its check.

    given: another turn's words, which are read and not written.
    """

    instruction: str
    label: str
    body: str
    check: Check
    given: bool = False

    @property
    def text(self) -> str:
        return f"{self.label} {self.body}" if self.label else self.body


class Draft(NamedTuple):
    """A prompt and the parts of its answer."""

    prompt: str
    parts: Sequence[Part]


class Items(NamedTuple):
    """What a kind's number of items may be, and contents with so many."""

    what: str
    """what is counted"""
    least: int
    most: int
    draw: Callable[[Random, int], Contents]


@dataclass(frozen=True)
class Kind:
    """A grammar of instructions.

    draw: contents from a random generator; what is hashed into splits, without regard to order.
    build: a draft from contents, a random generator and the story (None: the single-stage form, no story).
    leaks: the answer restates what the late stage needs, so the kind stays out of forgetting curves.
    spare: words of the answer before the late stage that are not the story's.
    staged: whether rows have stages at all; a plain story has none, so that no part of it weighs more in training.
    items: contents of another size than `draw` gives; None where the size is part of the grammar.
    one_late: whether one stage follows the story, so that other turns can stand between the two.
    """

    name: str
    draw: Callable[[Random], Contents]
    build: Callable[[Contents, Random, Story | None], Draft]
    leaks: bool = False
    spare: Callable[[Contents], int] = lambda contents: 0
    staged: bool = True
    items: Items | None = None
    one_late: bool = True

    @property
    def takes_turns(self) -> bool:
        """Whether other turns can come before what is asked for."""
        return self.staged and self.one_late and not self.leaks


def listing(items: Sequence[str]) -> str:
    """Join items as in a sentence: a, b, c and d."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]


def story_phrase(story: Story, rng: Random, *, counted: bool = True) -> tuple[str, Check]:
    """How a prompt asks for this story, and the check that goes with the words chosen.

    counted: the number of sentences may be stated (in words and up to ten, so that digits are contents only).
    """
    phrases = ["a story", "a short story" if story.sentences <= 5 else "a long story"]
    if counted and story.sentences <= len(NUMBERS):
        number = NUMBERS[story.sentences - 1]
        phrases.append(f"a story of {number} sentence{'s' if story.sentences > 1 else ''}")
    chosen = rng.randrange(len(phrases))
    if chosen < 2:
        return phrases[chosen], {"type": "sentences", "min": 1}
    return phrases[chosen], {"type": "sentences", "min": story.sentences, "max": story.sentences}


def story_part(story: Story, check: Check) -> Part:
    """The part that a story is; it has no label, so its line opens with its first sentence."""
    return Part("tell a story", "", story.text, check)


def row_from_draft(kind: Kind, contents: Contents, draft: Draft) -> Row:
    """Lay the parts out, one per line, and note where each begins."""
    answer = ""
    stages = []
    for part in draft.parts:
        marker = "\n" + part.label if answer else ""
        stages.append(Stage(part.instruction, part.check, len(answer), marker, part.given))
        answer += ("\n" if answer else "") + part.text
    return Row(
        id=derived_id(draft.prompt, answer),
        kind=kind.name,
        prompt=draft.prompt,
        answer=answer,
        stages=tuple(stages) if kind.staged else (),
        distance_words=len(answer[: stages[-1].start].split()),
        leaks=kind.leaks,
        extra={"contents": list(contents)},
    )
