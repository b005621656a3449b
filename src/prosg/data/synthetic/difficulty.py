"""Difficulty options of generated instructions.

    distractors  irrelevant sentences in the prompt, before and after the instruction
    turns        other instructions of the kind, each answered, between the story and the late stage
    items        number of digits, names, pairs or objects that the prompt gives
    filler       the story is running text of a file

In the answer another turn is two stages: its words ("Turn: ...", given, so read and not written) and its own answer
under the kind's label. The late stage then has a label of its own: "First code:".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from prosg.data.synthetic.filler import Filler
from prosg.data.synthetic.grammar import AnswerPart, Contents, Grammar, RowDraft
from prosg.data.synthetic.registry import KINDS
from prosg.data.synthetic.story import sentences_of_words
from prosg.data.synthetic.words import COLORS

__all__ = [
    "PLAIN",
    "Difficulty",
    "Range",
    "among_distractors",
    "check_range",
    "share_no_word",
    "turn_parts",
    "with_turns",
]

Range = tuple[int, int]
"""Least and greatest number, of which one is drawn for every row."""
MOST = 5_000_000
"""Words, sentences or turns of a row at most: a row that is much longer is a line that `read_rows` does not take."""
NOTE = " Other tasks of this kind come in between."


@dataclass(frozen=True)
class Difficulty:
    """Difficulty options; None switches an option off.

    Attributes:
        distractors: Number of words of irrelevant sentences around the instruction.
        filler: Text that stories are taken from.
        turns: Number of other turns before the late stage.
        items: Number of items that the prompt gives.

    Raises:
        ValueError: For a range that `check_range` refuses.
    """

    distractors: Range | None = None
    filler: Filler | None = None
    turns: Range | None = None
    items: Range | None = None

    def __post_init__(self) -> None:
        for name in ("distractors", "turns", "items"):
            if (numbers := getattr(self, name)) is not None:
                check_range(name, numbers)

    def check(self, grammar: Grammar) -> None:
        """Raises ValueError if a grammar does not support an option, naming the kinds or numbers of items that do."""
        for name, supports in SUPPORTS.items():
            if getattr(self, name) is not None and not supports(grammar):
                allowed = ", ".join(other.name for other in KINDS.values() if supports(other))
                raise ValueError(f"{name}: kind {grammar.name!r} cannot have them; allowed: {allowed}")
        if self.items is not None and grammar.items is not None:
            unit, least, most, _ = grammar.items
            if not least <= self.items[0] <= self.items[1] <= most:
                raise ValueError(
                    f"items is {self.items[0]} to {self.items[1]}; allowed for kind {grammar.name!r}: "
                    f"{least} to {most} {unit}"
                )


PLAIN = Difficulty()
"""No difficulty options."""


SUPPORTS: dict[str, Callable[[Grammar], bool]] = {
    "distractors": lambda grammar: grammar.staged,
    "filler": lambda grammar: grammar.staged,
    "turns": lambda grammar: grammar.takes_turns,
    "items": lambda grammar: grammar.items is not None,
}
"""Whether a grammar supports an option."""


def check_range(name: str, numbers: Range) -> None:
    """Raises ValueError for a range that is negative, begins with the greater number, or goes beyond `MOST`."""
    if not 0 <= numbers[0] <= numbers[1] <= MOST:
        raise ValueError(
            f"{name} is {numbers[0]} to {numbers[1]}; it must be 0 or more, at most {MOST}, the smaller number first"
        )


def share_no_word(contents: Contents, other: Iterable[str]) -> bool:
    """Whether no word of one is part of a word of the other, colours aside: a turn must not restate the prompt."""
    words = [word for value in contents for word in value.split() if word not in COLORS]
    other_words = [word for value in other for word in value.split()]
    return not any(a in b or b in a for a in words for b in other_words)


def turn_parts(grammar: Grammar, turns: Sequence[Contents], rng: Random) -> list[AnswerPart]:
    """Parts of other turns: the words of each, and its answer."""
    parts = []
    for contents in turns:
        draft = grammar.build(contents, rng, None)
        check = {"type": "exact", "text": f"Turn: {draft.prompt}"}
        parts += [AnswerPart("read another turn", "Turn:", draft.prompt, check, given=True), *draft.parts]
    return parts


def with_turns(draft: RowDraft, turns: Sequence[AnswerPart]) -> RowDraft:
    """Inserts other turns before the last part, which gets a label of its own."""
    *before, late = draft.parts
    label = f"First {late.label.lower()}"
    changes = {"after": label, "text": f"{label} {late.body}"}  # a check has one of them, or looks for items anywhere
    change = {name: value for name, value in changes.items() if name in late.check}
    return RowDraft(draft.prompt + NOTE, [*before, *turns, late._replace(label=label, check={**late.check, **change})])


def among_distractors(prompt: str, words: Range, rng: Random) -> str:
    """Surrounds a prompt with sentences of `words` words in all; its place among them is drawn.

    Raises ValueError if no whole sentences have that many words.
    """
    if words[1] == 0:
        return prompt
    try:
        parts = sentences_of_words(rng, max(words[0], 1), words[1])
    except ValueError as error:
        raise ValueError(f"distractors: {error}") from None
    cut = rng.randint(0, len(parts))
    return " ".join([*parts[:cut], prompt, *parts[cut:]])
