"""`prosg ablate`: what each part of the module, and each perturbation of its training, is worth."""

from __future__ import annotations

from argparse import Namespace

from prosg.cli.arguments import add_kinds
from prosg.cli.parser import Command, Parser
from prosg.cli.train import training_config, training_parser

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = training_parser(
        "synthesize",
        "Train the module of a configuration, then once more without each of its parts and of its training's "
        "perturbations, measure all on the forgetting curve with controls, and print and write one report in --out. "
        "Options of training are those of: prosg train synthesize, for all trainings alike. Stopped and started again, "
        "it goes on.",
    )
    parser.add_list("--parts", default=[], help="what to leave out, one at a time, like no-stack; all by default")
    parser.add_argument("--rows", type=int, default=64, help="prompts per cell of the curves")
    add_kinds(parser)
    parser.add_list("--sentences", int, help="lengths of the curves' stories")
    parser.add_argument("--split", default="test", help="of the curves' prompts: train, validation or test")
    parser.add_argument("--jobs", type=int, default=2, help="trainings and curves side by side")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live display")
    return parser


def _run(options: Namespace) -> int:
    from prosg.demo.ablation import ablate
    from prosg.evaluation.config import CurveConfig

    return ablate(
        training_config("synthesize", options, "ablate"),
        parts=options.parts,
        curve={"rows": options.rows, "sentences": options.sentences or CurveConfig().sentences},
        kinds=options.kinds or [],
        split=options.split,
        jobs=options.jobs,
        live=not options.plain,
    )


COMMAND = Command("what each part of the module is worth", _parser, _run, resumes=True)
