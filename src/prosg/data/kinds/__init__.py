"""Kinds of multi-stage instruction: grammars that make prompts, answers and checks."""

from prosg.data.kinds.base import Kind
from prosg.data.kinds.make import SENTENCES, SPLITS, iter_rows, make_row, make_rows, split_of
from prosg.data.kinds.registry import DEMO_KINDS, KINDS

__all__ = ["DEMO_KINDS", "KINDS", "SENTENCES", "SPLITS", "Kind", "iter_rows", "make_row", "make_rows", "split_of"]
