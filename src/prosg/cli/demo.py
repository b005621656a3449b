"""`prosg demo`: train a small model, its module and the rivals here, or a module on a real one; print the table."""

from __future__ import annotations

import dataclasses
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
    parser.add_argument(
        "--real",
        action="store_true",
        help="a published model of 135 million parameters instead, in a window of 64 tokens: fetched by pip, its "
        "module trained here in about an hour of one core, with 4 GB of memory",
    )
    parser.add_argument("--long", action="store_true", help="with --real, a night or two of training, and a rival")
    parser.add_argument("--gguf", type=path_text, help="with --real, the model's file or its wheel: nothing is fetched")
    parser.add_argument(
        "--text", type=path_text, help="with --real, a file of running text; by default the manual of Python"
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of a live display")
    return parser


def _run(options: Namespace) -> int:
    from prosg.demo.plan import Plan, run_demo

    if options.real:
        return _run_real(options)
    for name in ("long", "gguf", "text"):
        if getattr(options, name):
            raise ValueError(f"--{name} is for the real model; add --real")
    rows = options.rows or (192 if options.full else 64)
    plan = Plan(backbone=options.backbone, rows=rows, rates=tuple(options.rates), rivals=tuple(options.rivals))
    out = options.out or f"runs/{'full' if options.full else 'demo'}-{plan.backbone}"
    return run_demo(out, seeds=options.seeds, full=options.full, jobs=options.jobs, plan=plan, live=not options.plain)


def _run_real(options: Namespace) -> int:
    from prosg.demo.real import LONG, SHORT, run_real_demo

    if options.full or options.rivals:
        raise ValueError(f"--{'full' if options.full else 'rivals'} is for the small models; leave it out, or --real")
    plan = LONG if options.long else SHORT
    changes = {"prompts": options.rows or plan.prompts, "seed": options.seeds[0], "text": options.text or ""}
    out = options.out or ("runs/real-long" if options.long else "runs/real")
    plan = dataclasses.replace(plan, **changes)
    return run_real_demo(
        out, plan, file=options.gguf or "", jobs=min(options.jobs, 1 + options.long), live=not options.plain
    )


COMMAND = Command("train a small model here and show what the update does", _parser, _run, resumes=True)
