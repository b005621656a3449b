"""`prosg curve`: how much of its prompt a model still knows, how far on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from prosg.cli.arguments import (
    MEMORIES,
    add_kinds,
    add_model,
    add_overwrite,
    add_state,
    add_tau,
    add_template,
    add_window,
    checked_kinds,
)
from prosg.cli.common import check_anchor_used, check_new_file, load_from, say_template
from prosg.cli.parser import Command, Parser, path_text
from prosg.evaluation.config import CurveConfig
from prosg.evaluation.curve_columns import COLUMNS, HOW_TO_READ
from prosg.utils.spelling import check_known

__all__ = ["COMMAND"]


def _parser() -> Parser:
    parser = Parser(
        "The forgetting curve: how often a model still does the last thing that its prompt asked for, after stories of "
        "several lengths: what it forgets (--memory none), what an anchor gives back without any training (--memory "
        "none,anchor), and a trained module's update; each with its controls: another prompt's, the mean one, and the "
        "state wiped. Progress goes to stderr.",
        renamed={"--system": "--label"},
    )
    parser.add_section("columns of the table", {**COLUMNS, "": HOW_TO_READ})
    add_model(parser)
    add_state(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=path_text,
        help="the .json file to write: rows of results, and answers; beside it a .png: late against tokens, a line for "
        "each memory and whose it is",
    )
    add_overwrite(parser)
    parser.add_argument("--label", default="", help="what to call the model in the results")
    parser.add_list("--memory", help=f"what holds prompts: {', '.join(MEMORIES)}, or several; the model's own")
    add_tau(parser)
    parser.add_list("--updates", help="whose update and anchor: own, other, mean, none, wiped; all but none by default")
    parser.add_argument("--rows", type=int, default=64, help="prompts per cell")
    add_kinds(parser)
    add_template(parser, "")
    parser.add_list("--sentences", int, help="lengths of the story; the first is in range")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, stories and the derangement")
    parser.add_argument("--split", default="test", help="train, validation or test")
    parser.add_argument("--replay", action="store_true", help="read the prompt again before the late stage")
    parser.add_argument("--no-free", action="store_true", help="leave out answers of free length")
    parser.add_list(
        "--prompt-tokens",
        int,
        default=[],
        help="prompts of this length, the instruction among irrelevant sentences; several are measured one by one",
    )
    parser.add_list(
        "--turns",
        int,
        default=[],
        help="so many other turns of the kind, read with their answers, between story and late stage; or several",
    )
    parser.add_list("--items", int, default=[], help="so many digits, names or pairs in a prompt; or several")
    parser.add_argument(
        "--filler",
        type=path_text,
        default="",
        help="a text file that stories are read from, sentence by sentence, instead of sampled",
    )
    parser.add_argument(
        "--tokens-per-sentence",
        type=int,
        default=CurveConfig.tokens_per_sentence,
        help="a story that has not ended its sentences after so many tokens each is judged where it is",
    )
    add_window(parser)
    return parser


def _run(options: Namespace) -> int:
    from prosg.data.templates import known_template
    from prosg.evaluation.curve_file import measure_curve, picture_path

    for file in (options.out, picture_path(Path(options.out))):
        check_new_file("--out", file, options.overwrite)
    known_template(options.template)
    check_known("--memory", options.memory or [], MEMORIES)
    check_anchor_used(options, options.memory or [])
    kinds = checked_kinds(options)
    if options.rows < 1:
        raise ValueError(f"--rows is {options.rows}, must be at least 1")
    model = load_from(options)
    say_template(options, model)
    return measure_curve(
        model,
        options.out,
        overwrite=options.overwrite,
        system=options.label or options.model,
        seed=options.seed,
        memories=options.memory or [],
        tau=options.tau,
        updates=options.updates or [],
        kinds=kinds,
        template=options.template,
        split=options.split,
        free=not options.no_free,
        replay=options.replay,
        window=options.window,
        curve=CurveConfig(
            rows=options.rows,
            sentences=options.sentences or CurveConfig().sentences,
            prompt_tokens=options.prompt_tokens,
            turns=options.turns,
            items=options.items,
            filler=options.filler,
            tokens_per_sentence=options.tokens_per_sentence,
        ),
    )


COMMAND = Command("how much of its prompt a model still knows, how far on", _parser, _run)
