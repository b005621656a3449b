"""`prosg rate`: people rate the answers of an evaluation, blind, on a local page."""

from __future__ import annotations

import getpass
from argparse import Namespace

from prosg.cli.judge import RUNS_HELP
from prosg.cli.parser import Command, Parser, path_text
from prosg.utils.extras import missing_extra

__all__ = ["COMMAND"]

PORT = 8765


def _parser() -> Parser:
    parser = Parser(
        "Rate answers on a page in the browser, blind: fluency, accuracy and quality from 0 to 5. The page is served "
        "to this machine only, to one person at a time; every rating is written at once, to "
        "RUN/ratings/ANNOTATOR.jsonl, and the same command goes on where that person stopped."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=path_text, help=RUNS_HELP)
    parser.add_argument("--port", type=int, default=PORT, help="of the page; 0 takes a free one")
    parser.add_argument("--annotator", help="who rates; the login name by default")
    parser.add_argument("--rows", type=int, help="rate this many prompts, drawn by seed, the same for everybody; all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, and of every annotator's own order")
    parser.add_argument("--merge", action="store_true", help="print what all annotators said so far, and serve nothing")
    return parser


def _run(options: Namespace) -> int:
    from prosg.evaluation.ratings.items import items_for_annotator, left_out_text, read_items
    from prosg.evaluation.ratings.merge import merge_ratings, merged_ratings_text
    from prosg.evaluation.ratings.store import check_annotator

    if options.merge:
        usual = {"rows": None, "seed": 0, "port": PORT, "annotator": None}
        if idle := [name for name, value in usual.items() if getattr(options, name) != value]:
            raise ValueError(f"--{idle[0]} is for rating, and --merge only puts ratings together: leave out one")
        print(merged_ratings_text(merge_ratings(options.runs)))
        return 0
    annotator = _login_name() if options.annotator is None else options.annotator
    check_annotator(annotator)
    items, left_out = read_items(options.runs)
    if left_out:
        print(left_out_text(left_out))
    shown = items_for_annotator(items, annotator, rows=options.rows, seed=options.seed)
    try:
        from prosg.evaluation.ratings.server import serve
    except ImportError as error:
        raise missing_extra("rating", "eval", error) from None
    return serve(shown, annotator, port=options.port, seed=options.seed)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # in containers a user may have a number alone
        raise ValueError("--annotator is missing, and who is logged in has no name; say who rates") from None


COMMAND = Command("people rate answers side by side, blind, on a local page", _parser, _run)
