"""`prosg batch`: answer a file of prompts, many at once."""

from __future__ import annotations

import sys
from argparse import Namespace

from prosg.cli.arguments import add_memory, add_model, add_sampling, add_state, add_template
from prosg.cli.common import load_from, say_template
from prosg.cli.parser import Command, Parser, path_text
from prosg.utils.options import check_at_least

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser(
        "Answer a file of prompts, many at once, each under a memory of its own. What a line says of its own answer "
        "(max_tokens, temperature, top_k, top_p, stop, seed, memory, tau, template) goes before the options here."
    )
    add_model(parser)
    parser.add_argument("file", type=path_text, help='a jsonl file of {"prompt"} or {"messages"}')
    parser.add_argument(
        "--out", required=True, type=path_text, help="the jsonl file of answers; what is in it is not answered again"
    )
    add_state(parser)
    add_memory(parser)
    add_template(parser)
    add_sampling(parser)
    parser.add_argument("--stop", action="append", help=r"end answers at this text, like '\n'; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--rows", type=int, default=32, help="answers that are written at once")
    parser.add_argument("--prefill-chunk", type=int, default=256, help="tokens of prompts that are read at once")
    parser.add_argument("--cache-folder", type=path_text, help="keep prompts that were read there, for another time")
    return parser


def _run(options: Namespace) -> int:
    from prosg.data.templates import known_template
    from prosg.serving.batch import answer_file
    from prosg.serving.engine import Engine

    known_template(options.template)
    check_at_least(options, ["rows", "prefill_chunk"], 1)
    model = load_from(options)
    say_template(options, model)
    engine = Engine(
        model,
        max_rows=options.rows,
        prefill_chunk=options.prefill_chunk,
        cache_folder=options.cache_folder,
        queue=2 * options.rows,
    )
    result = answer_file(
        engine,
        options.file,
        options.out,
        memory=options.memory,
        tau=options.tau,
        template=options.template,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        stop=[text.replace("\\n", "\n") for text in options.stop or ()],
        seed=options.seed,
    )
    engine.stop()
    known = f", {result.skipped} were answered before" if result.skipped else ""
    print(f"{options.out}: {result.answered} answers{known}")
    if result.failed:
        print(
            f"{options.out}: {result.failed} lines could not be answered; their records have an error", file=sys.stderr
        )
    return 1 if result.failed else 0


COMMAND = Command("answer a file of prompts, many at once", _parser, _run, resumes=True)
