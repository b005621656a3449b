"""`prosg merge`: one prompt's update added to the weights, for other programs."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from prosg.cli.arguments import add_model, add_overwrite, add_prompt
from prosg.cli.common import check_not_read, check_read_already, encode_prompt, files_read, load_from, one_prompt_source
from prosg.cli.parser import Command, Parser, path_text

if TYPE_CHECKING:
    from prosg.core.update import Update
    from prosg.model.prosg import ProSG

__all__ = ["COMMAND", "LOST", "model_and_update"]

LOST = (
    "what stays behind: the prompt's recurrent state, since weights begin from the model's own initial state, and that "
    "here the first answer token comes from the unmodified weights"
)


def _parser() -> Parser:
    parser = Parser(
        "Write the backbone with one prompt's update added to its weights, W + dW, for programs that know no updates. "
        f"It is computed in fp32 and stored in the weights' type. {LOST.capitalize()}."
    )
    add_model(parser)
    add_prompt(parser)
    parser.add_argument(
        "--out", required=True, type=path_text, help="a .pth file (BlinkDL's layout), or a folder to write"
    )
    add_overwrite(parser)
    return parser


def model_and_update(options: Namespace) -> tuple[ProSG, Update]:
    """Loads the model and makes the update of --prompt or --encoded.

    Raises:
        ValueError: where there is no update, or those of several prompts.
    """
    one_prompt_source(options)
    check_read_already(options, "window")
    from prosg.checkpoints.encoded import load_encoded

    model = load_from(options, needs_tokenizer=options.encoded is None)
    if options.encoded is not None:
        encoded = load_encoded(options.encoded, model)
    elif model.synthesizer is not None:
        encoded = encode_prompt(options, model, memory="update")
    if model.synthesizer is None:
        raise ValueError(f"{options.model}: has no module, so a prompt has no update; name an adapter folder")
    if encoded.update is None or not encoded.has_updates:
        raise ValueError(f"{options.encoded}: was encoded without an update; encode it with --memory update")
    if encoded.batch != 1:
        raise ValueError(f"{options.encoded}: holds {encoded.batch} prompts; weights hold one prompt's update")
    return model, encoded.update


def _run(options: Namespace) -> int:
    from prosg.checkpoints.backbone import save_backbone
    from prosg.checkpoints.export import merge
    from prosg.utils.device import dtype_name
    from prosg.utils.staging import staging_folder

    check_read_already(options, "template")
    check_not_read("--out", options.out, files_read(options))
    model, update = model_and_update(options)
    merged = merge(model.backbone, update)
    out = Path(os.path.realpath(options.out))
    with staging_folder(out.with_name(f"{out.name}.tokenizer")) as folder:
        tokenizer = model.tokenizer.save(folder) if model.tokenizer is not None else None
        save_backbone(
            merged,
            options.out,
            tokenizer=tokenizer,
            special=model.special,
            template=model.own_template.known,
            overwrite=options.overwrite,
        )
    dtype = dtype_name(next(merged.parameters()).dtype)
    print(f"{options.out}: {merged.config.model_type}, {len(update)} projections merged, {dtype}\n{LOST}")
    return 0


COMMAND = Command("one prompt's update added to the weights, for other programs", _parser, _run)
