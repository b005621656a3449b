"""`prosg demo`: train a small model, its module and the rivals here, and print the table."""

from __future__ import annotations

from argparse import Namespace

from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser("Train a small model, its module and the rivals here, and print the table.")
    parser.add_argument(
        "--full", action="store_true", help="with the rivals, three learning rates each, 192 rows a cell"
    )
    parser.add_argument("--backbone", default="rwkv4", help="rwkv4, rwkv7, retnet or mamba, each small")
    parser.add_list("--seeds", int, default=[1], help="one run each, like 1,2,3")
    parser.add_argument(
        "--out", type=path_text, help="folder to go on in; by default runs/demo-NAME, with --full full-NAME"
    )
    parser.add_list("--rates", float, default=[1e-3, 3e-3, 1e-2], help="learning rates that rivals choose from")
    parser.add_list("--rivals", str, default=[], help="with --full, of the rivals these alone; by default all")
    parser.add_argument("--rows", type=int, help="prompts a cell; 64, with --full 192")
    parser.add_argument("--jobs", type=int, default=2, help="trainings and evaluations side by side")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live display")
    return parser


def _run(options: Namespace) -> int:
    from prosg.demo.plan import Plan, run_demo

    rows = options.rows or (192 if options.full else 64)
    plan = Plan(backbone=options.backbone, rows=rows, rates=tuple(options.rates), rivals=tuple(options.rivals))
    out = options.out or f"runs/{'full' if options.full else 'demo'}-{plan.backbone}"
    return run_demo(out, seeds=options.seeds, full=options.full, jobs=options.jobs, plan=plan, live=not options.plain)


COMMAND = Command("train a small model here and show what the update does", _parser, _run, resumes=True)
