"""`prosg export`: one prompt's update as a LoRA adapter of PEFT."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from prosg.cli.common import add_model, add_overwrite, add_prompt
from prosg.cli.merge import LOST, model_and_update
from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser(
        "Write one prompt's update as a LoRA adapter that PEFT loads on the model in transformers' layout (prosg "
        f"convert makes that): rank r, alpha = r, on the projections of the attention alone. {LOST.capitalize()}."
    )
    add_model(parser)
    add_prompt(parser)
    parser.add_argument("--peft", required=True, type=path_text, help="the folder to write, in PEFT's layout")
    add_overwrite(parser)
    return parser


def _run(options: Namespace) -> int:
    from prosg.checkpoints.export import export_peft

    model, update = model_and_update(options)
    base = os.path.normpath(model.base) if (Path(model.base) / "config.json").is_file() else ""
    export_peft(model.backbone, update, options.peft, base=base, overwrite=options.overwrite)
    rank = next(iter(update.values())).a.shape[1]
    print(f"{options.peft}: LoRA of rank {rank} on {len(update)} projections, for PEFT\n{LOST}")
    return 0


COMMAND = Command("one prompt's update as a LoRA adapter of PEFT", _parser, _run)
