"""`prosg eval`: measure systems side by side, with controls, and write a report."""

from __future__ import annotations

from argparse import Namespace

from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser(
        "Measure systems side by side: how much of its prompt is still there, how far into the answer, and is the "
        "update the reason? Writes report.html, report.md and results.json. Killed and started again, it goes on; what "
        "was made under the same options is not made again. Every key of FILE: prosg eval --options."
    )
    parser.add_argument("config", nargs="?", metavar="FILE", type=path_text, help="the YAML file of the evaluation")
    parser.add_argument("--out", type=path_text, help="another folder than the file's")
    parser.add_argument("--jobs", type=int, default=2, help="systems side by side, each on one thread")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live display")
    parser.add_list("--system", help="measure these only, here, and write no report")
    parser.add_argument("--options", action="store_true", help="print every key of FILE, and measure nothing")
    parser.add_example("eval.yaml")
    return parser


def _run(options: Namespace) -> int:
    from prosg.evaluation.config import EvalConfig, SystemConfig
    from prosg.evaluation.runner import evaluate, evaluate_systems
    from prosg.utils.options import help_text

    if options.options:
        print(f"{help_text(EvalConfig)}\nSYSTEM: one of `systems`, or just its model.\n{help_text(SystemConfig)}")
        return 0
    if options.config is None:
        raise ValueError("FILE, the YAML file of the evaluation, is missing; prosg eval --example prints one")
    if options.system is not None:
        return evaluate_systems(options.config, options.system, out=options.out)
    return evaluate(options.config, out=options.out, jobs=options.jobs, live=not options.plain)


COMMAND = Command("measure systems side by side, with controls, and write a report", _parser, _run, resumes=True)
