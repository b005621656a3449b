"""`prosg info`: what a model is."""

from __future__ import annotations

from argparse import Namespace

from prosg.cli.arguments import add_model
from prosg.cli.common import load_from
from prosg.cli.parser import Command, Parser

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser("What a model is, and what runs it here.")
    add_model(parser)
    return parser


def _run(options: Namespace) -> int:
    from prosg.inspection.info import describe
    from prosg.utils.tables import print_table

    print_table(list(describe(load_from(options, needs_tokenizer=False))))
    return 0


COMMAND = Command("what a model is: sizes, sites, kernels, fingerprint", _parser, _run)
