"""`prosg judge`: a model judges the answers of an evaluation."""

from __future__ import annotations

from argparse import Namespace

from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND", "RUNS_HELP"]

RUNS_HELP = "folders with rows.jsonl and answers/NAME.jsonl, one file per system"


def _parser() -> Parser:
    parser = Parser(
        "Ask a model about answers that no program can check: whether each step of the instruction was followed, with "
        "a quote, and which of two systems' answers is better, in both orders. Stopped and started again, it goes on "
        "and asks nothing twice. What it said is written to RUN/judge/."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=path_text, help=RUNS_HELP)
    parser.add_argument("--config", required=True, metavar="FILE", type=path_text, help="the YAML file of the judge")
    parser.add_argument(
        "--labels",
        type=path_text,
        help='people\'s labels, lines of {"id", "system", "stage", "label"}: prints Cohen\'s kappa',
    )
    parser.add_example("judge.yaml")
    return parser


def _run(options: Namespace) -> int:
    from prosg.evaluation.judge.config import load_judge
    from prosg.evaluation.judge.runner import judge_runs

    return judge_runs(options.runs, load_judge(options.config), options.labels)


COMMAND = Command("a model judges answers, step by step and in pairs", _parser, _run, resumes=True)
