"""`prosg encode`: turn a prompt into a file of state and weight update."""

from __future__ import annotations

from argparse import Namespace

from prosg.cli.common import (
    add_memory,
    add_model,
    add_overwrite,
    add_state,
    add_template,
    add_window,
    check_new_file,
    encode_prompt,
    load_from,
)
from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser("Read a prompt once, and keep what it left: state and weight update.")
    add_model(parser)
    add_state(parser)
    parser.add_argument("--prompt", required=True, help="the prompt")
    add_template(parser, "none", "; the prompt is the user's turn")
    parser.add_argument("--out", required=True, type=path_text, help="the .safetensors file to write")
    add_overwrite(parser)
    add_window(parser)
    add_memory(parser)
    return parser


def _run(options: Namespace) -> int:
    from prosg.checkpoints.encoded import save_encoded

    out = check_new_file("--out", options.out, options.overwrite)
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}; make it first")
    model = load_from(options)
    encoded = encode_prompt(options, model)
    save_encoded(encoded, out, model, overwrite=options.overwrite)
    parts = ["state", *(["update"] if encoded.update else []), *(["anchor"] if encoded.anchor else [])]
    content = " and ".join(parts) + ("" if model.synthesizer else " (this model has no module)")
    print(f"{out}: {content}, {out.stat().st_size:,} bytes")
    return 0


COMMAND = Command("turn a prompt into a file: state and weight update", _parser, _run)
