"""`prosg encode`: turn a prompt into a file of state and weight update."""

from __future__ import annotations

from argparse import Namespace

from prosg.cli.arguments import (
    add_memory,
    add_model,
    add_one_prompt,
    add_overwrite,
    add_prompt_file,
    add_state,
    add_template,
    add_window,
)
from prosg.cli.common import (
    check_anchor_used,
    check_new_file,
    check_not_read,
    encode_prompt,
    files_read,
    load_from,
    one_prompt_source,
    say_template,
)
from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser("Read a prompt once, and keep what it left: state and weight update.")
    add_model(parser)
    add_state(parser)
    add_one_prompt(parser)
    add_prompt_file(parser, "all are written into one file")
    add_template(parser)
    parser.add_argument("--out", required=True, type=path_text, help="the .safetensors file to write")
    add_overwrite(parser)
    add_window(parser)
    add_memory(parser)
    return parser


def _run(options: Namespace) -> int:
    from prosg.checkpoints.encoded import save_encoded
    from prosg.data.row import read_rows
    from prosg.data.templates import known_template
    from prosg.model.answering import frame_rows

    known_template(options.template)

    out = check_new_file("--out", options.out, options.overwrite)
    check_not_read("--out", out, files_read(options))
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}; make it first")
    one_prompt_source(options)
    check_anchor_used(options)
    rows = [] if options.prompt_file is None else read_rows(options.prompt_file, need_answers=False)
    model = load_from(options)
    if options.prompt_file is None:
        encoded = encode_prompt(options, model)
    else:
        prompts = [prompt for prompt, _ in frame_rows(rows, model, options.template)]
        say_template(options, model)
        encoded = model.encode(prompts, memory=options.memory, tau=options.tau, window=options.window)
    save_encoded(encoded, out, model, overwrite=options.overwrite)
    parts = ["state", *(["update"] if encoded.update else []), *(["anchor"] if encoded.anchor else [])]
    content = " and ".join(parts) + ("" if model.synthesizer else " (this model has no module)")
    count = "" if len(encoded) == 1 else f"{len(encoded)} prompts, "
    print(f"{out}: {count}{content}, {out.stat().st_size:,} bytes")
    return 0


COMMAND = Command("turn a prompt into a file: state and weight update", _parser, _run)
