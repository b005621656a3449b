"""`prosg demo`: train a small model, its module and the rivals here, or a module on a real one; print the table."""

from __future__ import annotations

import dataclasses
from argparse import Namespace

from prosg.cli.common import check_used
from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser("Train a small model, its module and the rivals here, and print the table.")
    parser.add_argument(
        "--full", action="store_true", help="with the rivals, three learning rates each, 192 rows a cell"
    )
    parser.add_argument("--backbone", help="rwkv4, rwkv7, retnet or mamba, each small; by default rwkv4")
    parser.add_list("--seeds", int, default=[1], help="one run each, like 1,2,3; of the real model one")
    parser.add_argument(
        "--out", type=path_text, help="folder to go on in; by default runs/demo-NAME, with --full full-NAME"
    )
    parser.add_list(
        "--rates", float, help="with --full, learning rates that rivals choose from; by default 0.001,0.003,0.01"
    )
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
    parser.add_argument(
        "--init",
        type=path_text,
        help="with --real, a module to go on from, as in a clone adapters/smollm2-135m; by default a new one",
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of a live display")
    return parser


def _run(options: Namespace) -> int:
    from prosg.demo.plan import RATES, Plan, run_demo

    if options.real:
        return _run_real(options)
    for name in ("long", "gguf", "text", "init"):
        if getattr(options, name):
            raise ValueError(f"--{name} is for the real model; add --real")
    for name in ("rates", "rivals"):
        check_used(f"--{name}", getattr(options, name), "--full", options.full)
    rows = options.rows if options.rows is not None else (192 if options.full else 64)
    rates = RATES if options.rates is None else tuple(options.rates)
    plan = Plan(backbone=options.backbone or Plan.backbone, rows=rows, rates=rates, rivals=tuple(options.rivals))
    out = options.out or f"runs/{'full' if options.full else 'demo'}-{plan.backbone}"
    return run_demo(out, seeds=options.seeds, full=options.full, jobs=options.jobs, plan=plan, live=not options.plain)


def _run_real(options: Namespace) -> int:
    from prosg.demo.real import LONG, SHORT, run_real_demo

    for name in ("full", "rivals", "backbone", "rates"):
        if getattr(options, name):
            raise ValueError(f"--{name} is for the small models; leave it out, or --real")
    if len(options.seeds) != 1:
        raise ValueError(f"--seeds is {','.join(map(str, options.seeds))}; with --real give one")
    plan = LONG if options.long else SHORT
    prompts = plan.prompts if options.rows is None else options.rows
    changes = {"prompts": prompts, "seed": options.seeds[0], "text": options.text or "", "init": options.init or ""}
    out = options.out or ("runs/real-long" if options.long else "runs/real")
    plan = dataclasses.replace(plan, **changes)
    return run_real_demo(
        out, plan, file=options.gguf or "", jobs=min(options.jobs, 1 + options.long), live=not options.plain
    )


COMMAND = Command("train a small model here and show what the update does", _parser, _run, resumes=True)
