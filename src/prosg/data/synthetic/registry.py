"""The grammars by the name of their kind."""

from __future__ import annotations

from collections.abc import Sequence

from prosg.data.synthetic.demo_grammars import CODE, ENDING, NAMES_IN_ORDER, STORY
from prosg.data.synthetic.grammar import Grammar
from prosg.data.synthetic.natural_grammars import GUESTS, MEETING, PASSWORD
from prosg.data.synthetic.other_grammars import CHOOSE, LIST_USE, PAIRS, REVERSE, RULE, SENTENCE, STEPS
from prosg.utils.spelling import check_known

__all__ = ["DEMO_KINDS", "KINDS", "NATURAL_KINDS", "check_kinds", "expand_kinds"]

KINDS: dict[str, Grammar] = {
    grammar.name: grammar
    for grammar in (
        ENDING,
        NAMES_IN_ORDER,
        CODE,
        PAIRS,
        RULE,
        SENTENCE,
        STEPS,
        LIST_USE,
        REVERSE,
        STORY,
        CHOOSE,
        PASSWORD,
        GUESTS,
        MEETING,
    )
}
DEMO_KINDS = ("ending", "names", "code")
"""Kinds of the demo, and the default of most commands."""
NATURAL_KINDS = ("password", "guests", "meeting")
"""Kinds as people write them, for pretrained models; "natural" stands for all of them."""


def expand_kinds(kinds: Sequence[str]) -> list[str]:
    """Returns the kinds with "natural" replaced by those that it stands for; of none, the demo's."""
    names = [name for kind in kinds for name in (NATURAL_KINDS if kind == "natural" else (kind,))]
    return names or list(DEMO_KINDS)


def check_kinds(option: str, kinds: Sequence[str]) -> list[str]:
    """Returns what `expand_kinds` does. ValueError, naming the option, for a kind that there is not or named twice."""
    check_known(option, kinds, [*KINDS, "natural"])
    names = expand_kinds(kinds)
    if len(set(names)) < len(names):
        raise ValueError(f"{option} is {','.join(kinds)}; name each kind once")
    return names
