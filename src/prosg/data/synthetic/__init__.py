"""Synthetic multi-stage instructions: grammars that generate prompts, answers and checks."""

from prosg.data.synthetic.difficulty import PLAIN, Difficulty, Range
from prosg.data.synthetic.filler import Filler
from prosg.data.synthetic.grammar import Grammar
from prosg.data.synthetic.registry import DEMO_KINDS, KINDS, NATURAL_KINDS, check_kinds, expand_kinds
from prosg.data.synthetic.row_generator import SENTENCES, iter_rows, make_row, make_rows
from prosg.data.synthetic.splits import SPLITS, split_of

__all__ = [
    "DEMO_KINDS",
    "KINDS",
    "NATURAL_KINDS",
    "PLAIN",
    "SENTENCES",
    "SPLITS",
    "Difficulty",
    "Filler",
    "Grammar",
    "Range",
    "check_kinds",
    "expand_kinds",
    "iter_rows",
    "make_row",
    "make_rows",
    "split_of",
]
