"""Kinds of multi-stage instruction: grammars that make prompts, answers and checks."""

from prosg.data.synthetic.base import Kind
from prosg.data.synthetic.filler import Filler
from prosg.data.synthetic.make import SENTENCES, iter_rows, make_row, make_rows
from prosg.data.synthetic.registry import DEMO_KINDS, KINDS
from prosg.data.synthetic.setting import PLAIN, Range, Setting
from prosg.data.synthetic.splits import SPLITS, split_of

__all__ = [
    "DEMO_KINDS",
    "KINDS",
    "PLAIN",
    "SENTENCES",
    "SPLITS",
    "Filler",
    "Kind",
    "Range",
    "Setting",
    "iter_rows",
    "make_row",
    "make_rows",
    "split_of",
]
