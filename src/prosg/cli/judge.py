"""Commands around the answers of an evaluation: a model judges them (judge), people rate them (rate)."""

from __future__ import annotations

import getpass
from typing import Any

from prosg.cli.common import Parser, Tool

__all__ = ["JUDGING"]

RUNS_HELP = "folders with rows.jsonl and answers/NAME.jsonl, one file per system"


def _judge_parser() -> Parser:
    parser = Parser(
        description="Ask a model about answers that no program can check: whether each step of the instruction was "
        "followed, with a quote, and which of two systems' answers is better, in both orders. Stopped and started "
        "again, it goes on and asks nothing twice. What it said is written to RUN/judge/."
    )
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help=RUNS_HELP)
    parser.add_argument("--config", type=str, required=True, help="the YAML file of the judge, like configs/judge.yaml")
    parser.add_argument(
        "--labels",
        type=str,
        help='people\'s labels, lines of {"id", "system", "stage", "label"}: prints Cohen\'s kappa',
    )
    return parser


def _run_judge(options: Any) -> int:
    from prosg.evaluation.judge.config import load_judge
    from prosg.evaluation.judge.runner import judge_runs

    return judge_runs(options.runs, load_judge(options.config), options.labels)


def _rate_parser() -> Parser:
    parser = Parser(
        description="Rate answers on a page in the browser, blind: fluency, accuracy and quality from 0 to 5. The "
        "page is served to this machine only, to one person at a time; every rating is written at once, to "
        "RUN/ratings/ANNOTATOR.jsonl, and the same command goes on where that person stopped."
    )
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help=RUNS_HELP)
    parser.add_argument("--port", type=int, default=8765, help="of the page; 0 takes a free one")
    parser.add_argument("--annotator", type=str, help="who rates; the login name by default")
    parser.add_argument("--rows", type=int, help="rate this many prompts, drawn by seed, the same for everybody; all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, and of every annotator's own order")
    parser.add_argument("--merge", action="store_true", help="print what all annotators said so far, and serve nothing")
    return parser


def _run_rate(options: Any) -> int:
    from prosg.evaluation.ratings.items import items_for_annotator, read_items
    from prosg.evaluation.ratings.merge import merge_ratings, merged_ratings_text
    from prosg.evaluation.ratings.store import check_annotator

    if options.merge:
        print(merged_ratings_text(merge_ratings(options.runs)))
        return 0
    annotator = getpass.getuser() if options.annotator is None else options.annotator
    check_annotator(annotator)
    items, left_out = read_items(options.runs)
    if left_out:
        print(f"{left_out} rows are left out: a system has no answer to them")
    shown = items_for_annotator(items, annotator, rows=options.rows, seed=options.seed)
    try:
        from prosg.evaluation.ratings.server import serve
    except ImportError as error:
        raise ValueError(f"rating needs the package {error.name}: pip install 'prosg[eval]'") from None
    return serve(shown, annotator, port=options.port, seed=options.seed)


JUDGING: dict[str, Tool] = {
    "judge": Tool(_judge_parser, "a model judges answers, step by step and in pairs", _run_judge),
    "rate": Tool(_rate_parser, "people rate answers side by side, blind, on a local page", _run_rate),
}
"""By the command's name."""
