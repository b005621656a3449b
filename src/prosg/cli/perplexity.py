"""`prosg perplexity`: score the answers of a file."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace

from prosg.cli.arguments import add_memory, add_model, add_state, add_template
from prosg.cli.common import load_from, say_template
from prosg.cli.parser import Command, Parser, path_text

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser("Perplexity of answers under their prompts, end tokens included.")
    add_model(parser)
    add_state(parser)
    parser.add_argument("file", type=path_text, help="jsonl rows of prompt and answer, messages, or text")
    add_template(parser, "; of a model that was not trained here, plain prompts have none")
    add_memory(parser)
    parser.add_argument("--batch-size", type=int, default=32, help="rows scored at once")
    return parser


def _run(options: Namespace) -> int:
    from prosg.checkpoints.load import require_tokenizer
    from prosg.data.encode import encode_rows
    from prosg.data.row import read_rows
    from prosg.data.templates import known_template
    from prosg.model.perplexity import perplexity

    if options.batch_size < 1:
        raise ValueError(f"--batch-size is {options.batch_size}, must be at least 1")
    model = load_from(options)
    read = read_rows(options.file)
    try:
        rows, _ = encode_rows(
            read,
            require_tokenizer(model, options.model),
            model.special,
            template=known_template(options.template),
            own=model.own_template,
        )
    except ValueError as error:
        raise ValueError(f"{options.file}: {error}") from error
    if any(row.turns for row in read) or model.own_template.trained is not None:
        say_template(options, model)
    scores = perplexity(model, rows, options.batch_size, memory=options.memory, tau=options.tau)
    if not math.isfinite(scores.perplexity):
        note = "the model's logits are no numbers, or too large; another --dtype may help"
        print(f"note: {options.file}: the perplexity is not finite, null here: {note}", file=sys.stderr)
    print(json.dumps({name: _shown(value) for name, value in scores.to_dict().items()}, indent=2))
    return 0


def _shown(value: float | int | None) -> float | int | None:
    """Six digits; None for what is not finite, which JSON cannot say."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


COMMAND = Command("score answers: answer tokens only", _parser, _run)
