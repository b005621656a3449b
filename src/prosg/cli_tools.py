"""Commands around an encoded prompt: take it elsewhere (merge, export). Each has a parser and what runs it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace

from prosg.cli_parts import Parser, encode_prompt, load, model_options, template_option

__all__ = ["TOOLS", "Tool"]


class Tool(NamedTuple):
    """A command."""

    parser: Callable[[], Parser]
    help: str
    run: Callable[[Any], int]


LOST = (
    "what stays behind: the prompt's recurrent state, since weights begin from the model's own initial state, and that "
    "here the first answer token comes from the unmodified weights"
)


def _one_prompt(parser: Parser) -> Parser:
    parser.add_argument("--prompt", type=str, help="the prompt")
    parser.add_argument("--encoded", type=str, help="a file made by: prosg encode")
    template_option(parser, "none", "; the prompt is the user's turn")
    parser.add_argument("--window", type=int | None, help="show the module the prompt in windows of this many tokens")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def _merge_parser() -> Parser:
    parser = _one_prompt(
        model_options(
            Parser(
                description="Write the backbone with one prompt's update added to its weights, W + dW, for programs "
                f"that know no updates. It is computed in fp32 and stored in the weights' type. {LOST.capitalize()}."
            )
        )
    )
    parser.add_argument("--out", type=str, required=True, help="a .pth file (BlinkDL's layout), or a folder to write")
    return parser


def _export_parser() -> Parser:
    parser = _one_prompt(
        model_options(
            Parser(
                description="Write one prompt's update as a LoRA adapter that PEFT loads on the model in transformers' "
                "layout (prosg convert makes that): rank r, alpha = r, on the projections of the attention alone. "
                f"{LOST.capitalize()}."
            )
        )
    )
    parser.add_argument("--peft", type=str, required=True, help="the folder to write, in PEFT's layout")
    return parser


def _update_of(options: Namespace, model: Any) -> Any:
    """The update of --prompt or --encoded; ValueError where there is none, or that of several prompts."""
    from prosg.adapter import load_encoded

    encoded = encode_prompt(options, model) if options.encoded is None else load_encoded(options.encoded, model)
    if encoded.update is None:
        raise ValueError(f"{options.model}: has no module, so a prompt has no update; name an adapter folder")
    if encoded.batch != 1:
        raise ValueError(f"{options.encoded}: holds {encoded.batch} prompts; weights hold one prompt's update")
    return encoded.update


def _model(options: Namespace) -> Any:
    """The model, once it is sure that there is one prompt."""
    if (options.prompt is None) == (options.encoded is None):
        raise ValueError("give either --prompt TEXT or --encoded FILE")
    return load(options, asks_tokenizer=options.encoded is None)


def _run_merge(options: Namespace) -> int:
    from prosg.checkpoint import save_backbone
    from prosg.elsewhere import merge
    from prosg.files import dtype_name

    model = _model(options)
    update = _update_of(options, model)
    merged = merge(model.backbone, update)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = model.tokenizer.save(folder) if model.tokenizer is not None else None
        save_backbone(merged, options.out, tokenizer=tokenizer, overwrite=options.overwrite)
    dtype = dtype_name(next(merged.parameters()).dtype)
    print(f"{options.out}: {merged.config.model_type}, {len(update)} projections merged, {dtype}\n{LOST}")
    return 0


def _run_export(options: Namespace) -> int:
    from prosg.elsewhere import export_peft

    model = _model(options)
    update = _update_of(options, model)
    base = os.path.normpath(model.base) if (Path(model.base) / "config.json").is_file() else ""
    export_peft(model.backbone, update, options.peft, base=base, overwrite=options.overwrite)
    rank = next(iter(update.values())).a.shape[1]
    print(f"{options.peft}: LoRA of rank {rank} on {len(update)} projections, for PEFT\n{LOST}")
    return 0


TOOLS: dict[str, Tool] = {
    "merge": Tool(_merge_parser, "one prompt's update added to the weights, for other programs", _run_merge),
    "export": Tool(_export_parser, "one prompt's update as a LoRA adapter of PEFT", _run_export),
}
"""By the command's name."""
