"""`prosg generate`: write an answer to a prompt."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from prosg.cli.arguments import add_memory, add_model, add_prompt, add_prompt_file, add_sampling, add_state
from prosg.cli.common import (
    check_anchor_used,
    check_read_already,
    check_used,
    encode_prompt,
    load_from,
    one_prompt_source,
    say_template,
)
from prosg.cli.parser import Command, Parser
from prosg.utils.outside import check_text

if TYPE_CHECKING:
    from prosg.core.encoded import Memory
    from prosg.data.row import Row
    from prosg.generation.sampling import Sampling, SamplingOptions
    from prosg.model.prosg import ProSG

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser("Write an answer, streamed as it comes.")
    add_model(parser)
    add_state(parser)
    add_prompt(parser, ", and the answer ends where the next would begin")
    add_prompt_file(parser, "each answer is a line of JSON")
    add_memory(parser)
    add_sampling(parser)
    parser.add_argument("--stop", action="append", help=r"end the answer at this text, like '\n'; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--hold-until", type=int, default=0, help="sentences to write before the marker is forced")
    parser.add_argument("--force-marker", default="", help=r"text that opens the late stage, like '\nCode:'")
    parser.add_argument("--late-temperature", type=float, default=0.0, help="temperature from the marker on")
    parser.add_argument(
        "--refresh-every", type=int, default=0, help="begin the state anew from the prompt's end every so many tokens"
    )
    parser.add_argument(
        "--refresh-keep",
        type=int,
        help="tokens at the answer's end that are then read once more; 50 by default",
    )
    return parser


def _run(options: Namespace) -> int:
    from prosg.checkpoints.encoded import load_encoded
    from prosg.data.row import read_rows
    from prosg.data.templates import known_template
    from prosg.model.answering import reply

    known_template(options.template)
    one_prompt_source(options)
    if options.encoded is not None and options.state is not None:
        raise ValueError("--state begins a prompt, but --encoded holds the state after one: encode it with --state")
    check_read_already(options, "window")
    check_text("--force-marker", options.force_marker)
    check_used("--hold-until", options.hold_until, "--force-marker", options.force_marker)
    check_used("--late-temperature", options.late_temperature, "--force-marker", options.force_marker)
    check_used("--refresh-keep", options.refresh_keep is not None, "--refresh-every", options.refresh_every)
    check_anchor_used(options)
    rows = [] if options.prompt_file is None else read_rows(options.prompt_file, need_answers=False)
    model = load_from(options)
    assert model.tokenizer is not None
    template = model.own_template.choose(options.template, model.tokenizer)
    texts = [text.replace("\\n", "\n") for text in options.stop or ()]
    sampling: SamplingOptions = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "stop": texts,
        "seed": options.seed,
        "hold_until": options.hold_until,
        "force_marker": options.force_marker.replace("\\n", "\n"),
        "late_temperature": options.late_temperature,
        "refresh_every": options.refresh_every,
    }
    if options.refresh_keep is not None:
        sampling["refresh_keep"] = options.refresh_keep
    if options.prompt_file is not None:
        return _answer_file(options, model, rows, model.sampling(**sampling))
    sampling["stop"] = [*texts, *([template.stop] if template.stop else [])]
    sampling["end_token"] = template.special(model.special, model.tokenizer).end
    model.sampling(**sampling)  # what is wrong with it is told before the prompt is read
    if options.encoded is None:
        encoded = encode_prompt(options, model)
    else:
        encoded = load_encoded(options.encoded, model)
        if options.anchor is not None:  # its windows instead of those in the file
            usual: Memory = "anchor" if encoded.update is None else ("both" if encoded.known is None else "auto")
            encoded = model.held_by(encoded.replace(anchor=None), options.memory or usual)
        elif options.memory is not None or options.tau is not None:
            memory = model.check_memory(options.memory or encoded.memory, options.tau)
            encoded = model.held_by(encoded, memory, options.tau)
    if len(encoded) > 1:
        for row, answer in enumerate(model.generate(encoded, **sampling)):
            print(json.dumps({"row": row, "answer": reply(answer, template)}, ensure_ascii=False))
        return 0
    begun = not template.reshapes
    for _, piece in model.stream(encoded, **sampling):
        shown = piece if begun else reply(piece, template)
        begun = begun or piece != ""
        print(shown, end="", flush=True)
    print()
    return 0


def _answer_file(options: Namespace, model: ProSG, rows: list[Row], sampling: Sampling) -> int:
    """Prints a line of JSON for each row: its id, the answer, and why it ended."""
    from prosg.model.answering import answer_rows, frame_rows

    prompts = frame_rows(rows, model, options.template)
    say_template(options, model)
    held = {"memory": options.memory, "tau": options.tau, "window": options.window}
    for row, answer in zip(rows, answer_rows(model, prompts, sampling, **held), strict=True):
        line = {"id": row.id, "answer": answer.text, "reason": answer.reason}
        print(json.dumps(line, ensure_ascii=False), flush=True)
    return 0


COMMAND = Command("write an answer to a prompt", _parser, _run)
