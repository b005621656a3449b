"""`prosg data`: make, check, build, compose, review multi-stage instructions, rows of running text, statistics."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prosg.cli.arguments import add_kinds, add_overwrite, checked_kinds
from prosg.cli.common import check_new_file, check_not_read
from prosg.cli.parser import Command, Group, Parser, path_text

if TYPE_CHECKING:
    from prosg.data.row import Row

__all__ = ["COMMANDS"]


def _make_parser() -> Parser:
    parser = Parser("Make rows from the grammars of the kinds.")
    parser.add_argument("file", type=path_text, help="the jsonl file to write")
    parser.add_argument("--size", type=int, default=1000, help="rows")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other rows")
    add_kinds(parser)
    parser.add_range("--distance", help="words before the late stage")
    parser.add_range("--sentences", help="sentences instead of words")
    parser.add_argument("--split", default="train", help="train, validation or test: contents never overlap")
    parser.add_range(
        "--distractors",
        help="words of irrelevant sentences in the prompt, some before the instruction and some after it",
    )
    parser.add_argument(
        "--filler",
        type=path_text,
        help="a text file whose sentences stand for the story; each split has paragraphs of its own, and no sentence "
        "with a word of the row's contents is taken",
    )
    parser.add_range(
        "--turns",
        help="other turns of the kind, each with contents of its own and answered, between the story and what the "
        "prompt asks for; their words are read, not learned",
    )
    parser.add_range(
        "--items",
        help="how much a prompt gives: digits of code (6 to 8 by default), names of names, reverse and guests (4), "
        "pairs of pairs (2 to 4), objects of list_use (3)",
    )
    add_overwrite(parser)
    return parser


def _make(options: Namespace) -> int:
    from prosg.data.row import write_rows
    from prosg.data.synthetic import SENTENCES, Difficulty, Filler, iter_rows

    if options.distance and options.sentences:
        raise ValueError("give --distance or --sentences, not both")
    check_new_file("FILE", options.file, options.overwrite, read=options.filler)
    ranges = {
        name: tuple(limits) if (limits := getattr(options, name)) else None
        for name in ("distance", "sentences", "distractors", "turns", "items")
    }
    kinds = checked_kinds(options)
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
    count = write_rows(options.file, _row_progress(rows, options.size, "making"), overwrite=options.overwrite)
    print(f"{options.file}: {count} rows of {', '.join(kinds)}, split {options.split}, seed {options.seed}")
    return 0


def _check_parser() -> Parser:
    parser = Parser("Validate rows; with answers, score them. Status 0 all right, 1 some failed, 2 bad input.")
    parser.add_argument("file", type=path_text, help="jsonl rows")
    parser.add_argument("--answers", type=path_text, help='jsonl lines of {"id", "answer"}')
    return parser


def _check(options: Namespace) -> int:
    from prosg.data.row import read_rows
    from prosg.data.scoring import format_scores, read_answers, score_rows, summary

    rows = read_rows(options.file)
    own_answers = {row.id: row.answer for row in rows}
    answers = own_answers if options.answers is None else read_answers(options.answers, rows)
    scores = score_rows(_row_progress(rows, len(rows), "checking"), answers)
    print(format_scores(scores))
    print(f"{options.file}: {summary(scores)}")
    return 0 if all(score.right == score.checked for score in scores.values()) else 1


def _row_progress(rows: Iterable[Row], total: int, what: str) -> Iterator[Row]:
    """The rows, with a progress bar on a terminal."""
    from tqdm import tqdm

    yield from tqdm(rows, total=total, desc=what, unit="row", disable=not sys.stderr.isatty(), leave=False)


def _build_parser() -> Parser:
    parser = Parser(
        "Ask a chat model for multi-stage instructions and answers, filter and verify them, and export a data set. "
        "Stopped anywhere and started again, a build goes on. Every key of FILE: prosg data options."
    )
    parser.add_argument("config", metavar="FILE", type=path_text, help="the YAML file of the build")
    parser.add_list("--stages", help="prompts, filter, answers, verify, export; all by default")
    parser.add_argument("--dry-run", action="store_true", help="estimate requests, tokens and money, and ask nothing")
    parser.add_argument("--out", type=path_text, help="another folder than the file's")
    parser.add_example("musi.yaml")
    return parser


def _build(options: Namespace) -> int:
    from prosg.musi.build import STAGES, build

    stages = STAGES if options.stages is None else options.stages
    return build(options.config, stages=stages, dry_run=options.dry_run, out=options.out)


def _options_parser() -> Parser:
    return Parser("Every key of a build's configuration.")


def _options(_: Namespace) -> int:
    from prosg.musi.config import BuildConfig
    from prosg.utils.options import help_text

    print(help_text(BuildConfig))
    return 0


def _compose_parser() -> Parser:
    parser = Parser("Put single tasks of other data sets together to multi-stage instructions; no model.")
    parser.add_argument(
        "files", nargs="+", type=path_text, help="alpaca, dolly, self-instruct, sharegpt or messages layout"
    )
    parser.add_argument("--size", type=int, default=1000, help="rows, 80 / 10 / 10 over the splits")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other rows; the tasks' splits stay")
    parser.add_argument("--out", required=True, type=path_text, help="folder with a file per split, or one .jsonl file")
    parser.add_argument("--longest", type=int, default=0, help="leave out tasks of more words; 0: none")
    parser.add_argument("--licence", default="", help="of the tasks, for the data card")
    add_overwrite(parser)
    return parser


def _compose(options: Namespace) -> int:
    from prosg.musi.composed_set import compose, output_paths

    for path in output_paths(options.out):
        check_not_read("--out", path, options.files)
    return compose(
        options.files,
        options.out,
        size=options.size,
        seed=options.seed,
        longest=options.longest,
        licence=options.licence,
        overwrite=options.overwrite,
    )


def _review_parser() -> Parser:
    parser = Parser("Look through rows and decide: keep, drop, edit, undo. Decisions stand beside the file.")
    parser.add_argument("file", type=path_text, help="jsonl rows")
    parser.add_argument("--sample", type=int, default=0, help="look at this many rows, drawn by seed; 0: at all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--apply", type=path_text, help="ask nothing, and write the rows as decided to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --apply")
    return parser


def _review(options: Namespace) -> int:
    from prosg.musi.review import review

    usual = {"overwrite": False} if options.apply is None else {"sample": 0, "seed": 0}
    if idle := [name for name, value in usual.items() if getattr(options, name) != value]:
        lonely = "is for the file of --apply, which is not named"
        doubled = "is for looking at rows, and --apply only writes them: leave out one"
        raise ValueError(f"--{idle[0]} {lonely if options.apply is None else doubled}")
    if options.apply is not None:
        check_new_file("--apply", options.apply, options.overwrite, read=options.file)
    return review(
        options.file, sample=options.sample, seed=options.seed, apply_to=options.apply, overwrite=options.overwrite
    )


def _stats_parser() -> Parser:
    parser = Parser("Lengths, kinds, stages, distances and duplicates, as text and as a plot.")
    parser.add_argument("file", type=path_text, help="jsonl rows")
    parser.add_argument("--out", type=path_text, help="the .png file to write; beside the rows by default")
    parser.add_argument("--similar-above", type=float, default=0.7, help="ROUGE-L F1 above which prompts are alike")
    add_overwrite(parser)
    return parser


def _stats(options: Namespace) -> int:
    from prosg.musi.stats import stats

    if not 0 < options.similar_above < 1:
        raise ValueError(f"--similar-above is {options.similar_above:g}, must be above 0 and below 1")
    out = str(Path(options.file).with_suffix(".png")) if options.out is None else options.out
    check_new_file("--out", out, options.overwrite, read=options.file)
    return stats(options.file, out=out, above=options.similar_above, overwrite=options.overwrite)


def _passages_parser() -> Parser:
    parser = Parser(
        "Cut running text into rows of kind passage: a text, and how it goes on. Training on them needs no answers: "
        "the module is taught by the model that has its prompt (prosg train synthesize --distil)."
    )
    parser.add_argument("file", type=path_text, help="running text, its paragraphs divided by blank lines")
    parser.add_argument("--out", required=True, type=path_text, help="the jsonl file to write")
    parser.add_argument("--size", type=int, default=0, help="rows; 0: as many as there are")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other places to cut")
    parser.add_argument("--split", default="train", help="train, validation or test: they share no paragraph")
    parser.add_range("--prompt-words", help="words of a passage (default: 30 to 60)")
    parser.add_range("--answer-words", help="words of its continuation (default: 30 to 60)")
    add_overwrite(parser)
    return parser


def _passages(options: Namespace) -> int:
    from prosg.data.passages import iter_passages
    from prosg.data.row import write_rows

    if options.size < 0:
        raise ValueError(f"--size is {options.size}, must be 1 or more, or 0 for as many rows as there are")
    check_new_file("--out", options.out, options.overwrite, read=options.file)
    words = {name: tuple(value) for name in ("prompt_words", "answer_words") if (value := getattr(options, name))}
    rows = iter_passages(options.file, options.split, seed=options.seed, size=options.size, **words)
    count = write_rows(options.out, rows, overwrite=options.overwrite)
    print(f"{options.out}: {count} passages, split {options.split}, seed {options.seed}")
    return 0


COMMANDS = Group(
    "make, check, build and compose multi-stage instructions, rows of text, and stats",
    "Multi-stage instructions with programmatic checks.",
    {
        "make": Command("make a file of rows", _make_parser, _make),
        "check": Command("validate rows, score answers, and count both", _check_parser, _check),
        "build": Command("build a data set with a chat model", _build_parser, _build, resumes=True),
        "options": Command("keys of a build's configuration", _options_parser, _options),
        "compose": Command("make multi-stage instructions of single tasks", _compose_parser, _compose),
        "passages": Command("cut running text into rows", _passages_parser, _passages),
        "review": Command("look through rows: keep, drop, edit", _review_parser, _review),
        "stats": Command("count and plot what is in a file", _stats_parser, _stats),
    },
)
