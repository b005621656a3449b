"""Commands around rows: make, build, compose, check, review, count."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from prosg.cli.common import Parser, kinds_given

if TYPE_CHECKING:
    from prosg.data.row import Row

__all__ = ["DATA", "add_data_commands"]


def add_data_commands(parser: Parser) -> None:
    """Spell out the commands under `data`."""
    commands = parser.add_subcommands(dest="subcommand", required=True)
    make = Parser(description="Make rows from the grammars of the kinds.")
    make.add_argument("file", type=str, help="the jsonl file to write")
    make.add_argument("--size", type=int, default=1000, help="rows")
    make.add_argument("--seed", type=int, default=0, help="another seed, other rows")
    make.add_argument("--kinds", type=str, nargs="+", help="kinds, apart by commas or spaces; the demo's by default")
    make.add_argument("--distance", type=int, nargs=2, metavar=("MIN", "MAX"), help="words before the late stage")
    make.add_argument("--sentences", type=int, nargs=2, metavar=("MIN", "MAX"), help="sentences instead of words")
    make.add_argument("--split", type=str, default="train", help="train, validation or test: contents never overlap")
    make.add_argument(
        "--distractors",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="words of irrelevant sentences in the prompt, some before the instruction and some after it",
    )
    make.add_argument(
        "--filler",
        type=str,
        help="a text file whose sentences stand for the story; each split has paragraphs of its own, and no sentence "
        "with a word of the row's contents is taken",
    )
    make.add_argument(
        "--turns",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="other turns of the kind, each with contents of its own and answered, between the story and what the "
        "prompt asks for; their words are read, not learned",
    )
    make.add_argument(
        "--items",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="how much a prompt gives: digits of code (6 to 8 by default), names of names and reverse (4), pairs of "
        "pairs (2 to 4), objects of list_use (3)",
    )
    commands.add_subcommand("make", make, help="make a file of rows")
    check = Parser(
        description="Validate rows; with answers, score them. Status 0 all right, 1 some failed, 2 bad input."
    )
    check.add_argument("file", type=str, help="jsonl rows")
    check.add_argument("--answers", type=str, help='jsonl lines of {"id", "answer"}')
    commands.add_subcommand("check", check, help="validate rows and score answers")
    _add_musi_commands(commands)


def _add_musi_commands(commands: Any) -> None:
    build = Parser(
        description="Ask a chat model for multi-stage instructions and answers, filter and verify them, and export a "
        "data set. Stopped anywhere and started again, a build goes on. Every key of CONFIG: prosg data options."
    )
    build.add_argument("config", type=str, help="the YAML file of the build, like configs/musi.yaml")
    build.add_argument("--stages", type=str, nargs="+", help="prompts, filter, answers, verify, export; all by default")
    build.add_argument("--dry-run", action="store_true", help="estimate requests, tokens and money, and ask nothing")
    build.add_argument("--out", type=str, help="another folder than the configuration's")
    commands.add_subcommand("build", build, help="build a data set with a chat model")
    commands.add_subcommand(
        "options", Parser(description="Every key of a build's configuration."), help="keys of CONFIG"
    )
    compose = Parser(description="Put single tasks of other data sets together to multi-stage instructions; no model.")
    compose.add_argument("files", type=str, nargs="+", help="alpaca, dolly, self-instruct, sharegpt or messages layout")
    compose.add_argument("--size", type=int, default=1000, help="rows, 80 / 10 / 10 over the splits")
    compose.add_argument("--seed", type=int, default=0, help="another seed, other rows; the tasks' splits stay")
    compose.add_argument("--out", type=str, required=True, help="folder with a file per split, or one .jsonl file")
    compose.add_argument("--longest", type=int, default=0, help="leave out tasks of more words; 0: none")
    compose.add_argument("--licence", type=str, default="", help="of the tasks, for the data card")
    compose.add_argument("--overwrite", action="store_true", help="replace what is there")
    commands.add_subcommand("compose", compose, help="make multi-stage instructions of single tasks")
    review = Parser(
        description="Look through rows and decide: keep, drop, edit, undo. Decisions stand beside the file."
    )
    review.add_argument("file", type=str, help="jsonl rows")
    review.add_argument("--sample", type=int, default=0, help="look at this many rows, drawn by seed; 0: at all")
    review.add_argument("--seed", type=int, default=0, help="of the sample")
    review.add_argument("--apply", type=str, help="ask nothing, and write the rows as decided to this file")
    commands.add_subcommand("review", review, help="look through rows: keep, drop, edit")
    stats = Parser(description="Lengths, kinds, stages, distances and duplicates, as text and as a plot.")
    stats.add_argument("file", type=str, help="jsonl rows")
    stats.add_argument("--out", type=str, help="the .png file to write; beside the rows by default")
    stats.add_argument("--similar-above", type=float, default=0.7, help="ROUGE-L F1 above which prompts are alike")
    commands.add_subcommand("stats", stats, help="count and plot what is in a file")


def _run_data_make(options: Namespace) -> int:
    from prosg.data.row import write_rows
    from prosg.data.synthetic import DEMO_KINDS, SENTENCES, Difficulty, Filler, iter_rows

    if options.distance and options.sentences:
        raise ValueError("give --distance or --sentences, not both")
    ranges = {
        name: tuple(options[name]) if options[name] else None
        for name in ("distance", "sentences", "distractors", "turns", "items")
    }
    kinds = kinds_given(options.kinds) or DEMO_KINDS
    difficulty = Difficulty(
        distractors=ranges["distractors"],
        filler=Filler.read(options.filler) if options.filler is not None else None,
        turns=ranges["turns"],
        items=ranges["items"],
    )
    rows = iter_rows(
        kinds,
        options.size,
        options.seed,
        options.split,
        distance=ranges["distance"],
        sentences=ranges["sentences"] or SENTENCES,
        difficulty=difficulty,
    )
    count = write_rows(options.file, _row_progress(rows, options.size, "making"))
    print(f"{options.file}: {count} rows of {', '.join(kinds)}, split {options.split}, seed {options.seed}")
    return 0


def _run_data_check(options: Namespace) -> int:
    from prosg.data.row import read_rows
    from prosg.data.scoring import format_scores, read_answers, score_rows

    rows = read_rows(options.file)
    own_answers = {row.id: row.answer for row in rows}
    answers = own_answers if options.answers is None else read_answers(options.answers, rows)
    scores = score_rows(_row_progress(rows, len(rows), "checking"), answers)
    print(format_scores(scores))
    return 0 if all(score.right == score.checked for score in scores.values()) else 1


def _row_progress(rows: Iterable[Row], total: int, what: str) -> Iterator[Row]:
    """The rows, with a progress bar on a terminal."""
    from tqdm import tqdm

    yield from tqdm(rows, total=total, desc=what, unit="row", disable=not sys.stderr.isatty(), leave=False)


def _run_data_build(options: Namespace) -> int:
    from prosg.musi.build import STAGES, build

    return build(options.config, stages=kinds_given(options.stages) or STAGES, dry_run=options.dry_run, out=options.out)


def _run_data_options(options: Namespace) -> int:
    from prosg.musi.config import BuildConfig
    from prosg.utils.options import help_text

    print(help_text(BuildConfig))
    return 0


def _run_data_compose(options: Namespace) -> int:
    from prosg.musi.composed_set import compose

    return compose(
        options.files,
        options.out,
        size=options.size,
        seed=options.seed,
        longest=options.longest,
        licence=options.licence,
        overwrite=options.overwrite,
    )


def _run_data_review(options: Namespace) -> int:
    from prosg.musi.review import review

    return review(options.file, sample=options.sample, seed=options.seed, apply_to=options.apply)


def _run_data_stats(options: Namespace) -> int:
    from prosg.musi.stats import stats

    return stats(options.file, out=options.out, above=options.similar_above)


DATA: dict[str, Callable[[Any], int]] = {
    "data make": _run_data_make,
    "data check": _run_data_check,
    "data build": _run_data_build,
    "data options": _run_data_options,
    "data compose": _run_data_compose,
    "data review": _run_data_review,
    "data stats": _run_data_stats,
}
"""By the names of command and subcommand."""
