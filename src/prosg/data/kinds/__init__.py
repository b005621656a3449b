"""Kinds of multi-stage instruction: grammars that make prompts, answers and checks."""

from prosg.data.kinds.base import Kind
from prosg.data.kinds.filler import Filler
from prosg.data.kinds.make import SENTENCES, iter_rows, make_row, make_rows
from prosg.data.kinds.registry import DEMO_KINDS, KINDS
from prosg.data.kinds.setting import PLAIN, Range, Setting
from prosg.data.kinds.splits import SPLITS, split_of

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
