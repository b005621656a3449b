"""What makes an instruction harder: a longer prompt, other turns in between, more items, running text for a story.

    distractors  sentences of the stories' words before and after the instruction
    turns        prompt, story, then other instructions of the kind, each answered, and last what the prompt asks for
    items        how many digits, names, pairs or objects a prompt gives
    filler       sentences of a file instead of made ones

In the answer another turn is two stages: its words ("Turn: ...", given: read, not written) and its own recitation,
whose label is the kind's. What the prompt asks for then has a label of its own: "First code:".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from prosg.data.synthetic.base import Contents, Draft, Kind, Part
from prosg.data.synthetic.filler import Filler
from prosg.data.synthetic.registry import KINDS
from prosg.data.synthetic.story import sentences_of_words
from prosg.data.synthetic.words import COLORS

__all__ = ["PLAIN", "Range", "Setting", "among_distractors", "are_apart", "check_range", "turn_parts", "with_turns"]

Range = tuple[int, int]
NOTE = " Other tasks of this kind come in between."


@dataclass(frozen=True)
class Setting:
    """Ranges are least and greatest numbers, drawn per row; None leaves a row as it is.

    Attributes:
        distractors: Words of irrelevant sentences around the instruction in the prompt.
        filler: Text that stories are taken from.
        turns: Other turns before the late stage.
        items: Items that a prompt gives.
    """

    distractors: Range | None = None
    filler: Filler | None = None
    turns: Range | None = None
    items: Range | None = None

    def __post_init__(self) -> None:
        for name in ("distractors", "turns", "items"):
            if (pair := getattr(self, name)) is not None:
                check_range(name, pair)

    def check(self, kind: Kind) -> None:
        """Raises ValueError where a kind cannot have it, naming those that can, and what numbers of items."""
        for name, can in (("distractors", _staged), ("filler", _staged), ("turns", _takes_turns), ("items", _counts)):
            if getattr(self, name) is not None and not can(kind):
                able = ", ".join(other.name for other in KINDS.values() if can(other))
                raise ValueError(f"{name}: kind {kind.name!r} cannot have them; allowed: {able}")
        if self.items is not None and kind.items is not None:
            what, least, most, _ = kind.items
            if not least <= self.items[0] <= self.items[1] <= most:
                raise ValueError(
                    f"items is {self.items[0]} to {self.items[1]}; allowed for kind {kind.name!r}: "
                    f"{least} to {most} {what}"
                )


PLAIN = Setting()


def _staged(kind: Kind) -> bool:
    return kind.staged


def _takes_turns(kind: Kind) -> bool:
    return kind.takes_turns


def _counts(kind: Kind) -> bool:
    return kind.items is not None


def check_range(name: str, pair: Range) -> None:
    """Raises ValueError for a range that is negative or begins with the greater number."""
    if not 0 <= pair[0] <= pair[1]:
        raise ValueError(f"{name} is {pair[0]} to {pair[1]}; it must be 0 or more, the smaller number first")


def are_apart(contents: Contents, others: Iterable[str]) -> bool:
    """Whether no word of the one stands in the other, colours apart: another turn must not say what is asked for."""
    ours = [word for value in contents for word in value.split() if word not in COLORS]
    theirs = [word for value in others for word in value.split()]
    return not any(a in b or b in a for a in ours for b in theirs)


def turn_parts(kind: Kind, turns: Sequence[Contents], rng: Random) -> list[Part]:
    """Other turns: the words of each, and its answer."""
    parts = []
    for contents in turns:
        draft = kind.build(contents, rng, None)
        check = {"type": "exact", "text": f"Turn: {draft.prompt}"}
        parts += [Part("read another turn", "Turn:", draft.prompt, check, given=True), *draft.parts]
    return parts


def with_turns(draft: Draft, turns: Sequence[Part]) -> Draft:
    """The draft with other turns before its last part, which gets a label of its own."""
    *before, late = draft.parts
    label = f"First {late.label.lower()}"
    change = {"after": label} if "after" in late.check else {"text": f"{label} {late.body}"}
    return Draft(draft.prompt + NOTE, [*before, *turns, late._replace(label=label, check=late.check | change)])


def among_distractors(prompt: str, words: Range, rng: Random) -> str:
    """The prompt among sentences of `words` words in all, some before it and some after it, as drawn.

    Raises ValueError where whole sentences cannot give that many.
    """
    if words[1] == 0:
        return prompt
    try:
        parts = sentences_of_words(rng, max(words[0], 1), words[1])
    except ValueError as error:
        raise ValueError(f"distractors: {error}") from None
    cut = rng.randint(0, len(parts))
    return " ".join([*parts[:cut], prompt, *parts[cut:]])
