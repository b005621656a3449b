"""Commands of evaluations: measure systems side by side (eval), read several runs as one report (report)."""

from __future__ import annotations

import os
from typing import Any

from prosg.cli.common import Parser, Tool

__all__ = ["EVALUATION"]


def _eval_parser() -> Parser:
    parser = Parser(
        description="Measure systems side by side: how much of its prompt is still there, how far into the answer, and "
        "is the update the reason? Writes report.html, report.md and results.json. Killed and started again, it goes "
        "on; what was made under the same options is not made again. Every key of CONFIG: prosg eval --options."
    )
    parser.add_argument("config", type=str, nargs="?", help="the YAML file of the evaluation, like configs/eval.yaml")
    parser.add_argument("--out", type=str, help="another folder than the configuration's")
    parser.add_argument("--jobs", type=int, default=2, help="systems side by side, each on one thread")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live display")
    parser.add_argument("--system", type=str, help="measure this one only, here, and write no report")
    parser.add_argument("--options", action="store_true", help="print every key of CONFIG, and measure nothing")
    return parser


def _run_eval(options: Any) -> int:
    from prosg.evaluation.config import EvalConfig, SystemConfig
    from prosg.evaluation.runner import evaluate, evaluate_systems
    from prosg.utils.options import help_text

    if options.options:
        print(f"{help_text(EvalConfig)}\nSYSTEM: one of `systems`, or just its model.\n{help_text(SystemConfig)}")
        return 0
    if options.config is None:
        raise ValueError("the YAML file of the evaluation is missing, like: prosg eval configs/eval.yaml")
    if options.system is not None:
        return evaluate_systems(options.config, options.system.split(","), out=options.out)
    return evaluate(options.config, out=options.out, jobs=options.jobs, live=not options.plain)


def _report_parser() -> Parser:
    parser = Parser(description="Write the report of an evaluation anew, or of several of the same rows side by side.")
    parser.add_argument("runs", type=str, nargs="+", metavar="DIR", help="folders of prosg eval")
    parser.add_argument("--out", type=str, help="folder to write it in; of a single run its own by default")
    return parser


def _run_report(options: Any) -> int:
    from prosg.evaluation.report.writer import write_reports

    if options.out is None and len(options.runs) > 1:
        raise ValueError("--out is missing: a report of several runs needs a folder of its own")
    out = options.out or options.runs[0]
    missing = write_reports(options.runs, out)
    print(os.path.join(out, "report.html"))
    return 1 if missing else 0


EVALUATION: dict[str, Tool] = {
    "eval": Tool(_eval_parser, "measure systems side by side, with controls, and write a report", _run_eval),
    "report": Tool(_report_parser, "an evaluation's report anew, or several runs side by side", _run_report),
}
"""By the name of the command."""
