"""The grammars by the name of their kind."""

from __future__ import annotations

from prosg.data.synthetic.demo_grammars import CODE, ENDING, NAMES_IN_ORDER, STORY
from prosg.data.synthetic.grammar import Grammar
from prosg.data.synthetic.other_grammars import LIST_USE, PAIRS, REVERSE, RULE, SENTENCE, STEPS

__all__ = ["DEMO_KINDS", "KINDS"]

KINDS: dict[str, Grammar] = {
    grammar.name: grammar
    for grammar in (ENDING, NAMES_IN_ORDER, CODE, PAIRS, RULE, SENTENCE, STEPS, LIST_USE, REVERSE, STORY)
}
DEMO_KINDS = ("ending", "names", "code")
"""Kinds of the demo, and the default of most commands."""
