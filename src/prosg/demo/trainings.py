"""Trainings as jobs: public commands with files before and after them, so that whatever is stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prosg.backbones.base import Backbone
from prosg.checkpoints.backbone import save_backbone
from prosg.checkpoints.tensors import read_tensors
from prosg.data.row import write_rows
from prosg.data.synthetic import DEMO_KINDS, PLAIN, SENTENCES, Difficulty, make_rows
from prosg.tokenizers.bpe import train_bpe
from prosg.training.config import Phase
from prosg.utils.jobs import Job

__all__ = ["common_options", "length", "phase1_jobs", "prepare", "training", "training_notes"]


def prepare(
    folder: Path,
    seed: int,
    fresh: Callable[[int], Backbone],
    size: int,
    kinds: Sequence[str] = DEMO_KINDS,
    sentences: tuple[int, int] = SENTENCES,
    difficulty: Difficulty = PLAIN,
    easier: int = 0,
) -> None:
    """Writes rows, tokenizer and random weights of one seed, unless they are there.

    data/base.jsonl gets single-stage rows; data/train.jsonl `size` rows with stories, a tenth as many without.

    Args:
        folder: Of the seed.
        seed: Of rows and weights.
        fresh: Makes the backbone of a seed.
        size: Training rows with stories.
        kinds: Kinds of instruction.
        sentences: Least and greatest length of stories.
        difficulty: What makes instructions harder.
        easier: So many of the demo's rows on top.
    """
    data, start = folder / "data", folder / "start"
    if (start / "config.json").exists():
        return
    data.mkdir(parents=True, exist_ok=True)
    rows = make_rows(kinds, size, seed, "train", sentences=sentences, difficulty=difficulty)
    bare = Difficulty(items=difficulty.items)
    single = make_rows(kinds, size // 5, seed, "train", sentences=(0, 0), difficulty=bare)
    plain = make_rows(("story",), size // 25, seed, "train")
    write_rows(data / "base.jsonl", [*single, *plain])
    demo = make_rows(kinds, easier, seed, "train") if easier else []
    write_rows(data / "train.jsonl", [*rows, *single[: size // 10], *demo])
    validation = make_rows(kinds, 192, seed, "validation", sentences=sentences, difficulty=difficulty)
    write_rows(data / "validation.jsonl", validation)
    tokenizer = train_bpe([text for row in rows[:3000] for text in (row.prompt, row.answer)])
    save_backbone(fresh(seed), start, tokenizer=tokenizer.save(data))  # type: ignore[arg-type]


def training(name: str, phase: Phase, folder: Path, model: str, data: str, seconds: float, *options: str) -> Job:
    """A training of `name` in a seed's folder, on what another one there left (`model`) and on a file of its data."""
    output = folder / name
    command = ["train", phase, "--model", str(folder / model), "--train", str(folder / "data" / data)]
    command += ["--validation", str(folder / "data" / "validation.jsonl"), "--out", str(output)]
    needs = model.partition("/")[0]
    return Job(
        f"{folder.name} {name}",
        (*command, *options),
        done=output / "result.json",
        progress=output / "progress.json",
        log=output / "log.txt",
        needs=() if needs == "start" else (f"{folder.name} {needs}",),
        seconds=seconds,
    )


def common_options(seed: int, dtype: str, save_steps: int = 250) -> tuple[str, ...]:
    """Options of every training."""
    return ("--seed", str(seed), "--dtype", dtype, "--progress", "false", "--save-steps", str(save_steps))


def length(steps: int) -> tuple[str, ...]:
    """The option of a training's length."""
    return ("--optim.steps", str(steps))


def phase1_jobs(folder: Path, seed: int, dtype: str, base: int, phase1: int, *options: str) -> list[Job]:
    """From random weights: `base` single-stage steps, then phase 1 until validation rows are right, or `phase1` steps.

    `options` are further ones of phase 1.
    """
    scratch = (*common_options(seed, dtype), "--optim.lr", "3e-3")  # the recipes' rates are for pretrained weights
    until = ("--stop.times", "2", "--stop.value", "0.985", "--eval-steps", "100")
    return [
        training("base", "finetune", folder, "start", "base.jsonl", 20, *scratch, *length(base)),
        training(
            "phase1", "finetune", folder, "base/model", "train.jsonl", 110, *scratch, *until, *length(phase1), *options
        ),
    ]


def training_notes(folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """A report's section on trainings: what each took, and a warning where phase 1 did not converge.

    Args:
        folders: Of trainings, by the name that the table calls them.
    """
    reached = {None: "none set", True: "reached", False: "not reached"}
    table = [["training", "trained parameters", "steps", "seconds", "skipped steps", "validation criterion"]]
    missed = []
    for name, folder in folders.items():
        if not (folder / "result.json").exists():
            continue
        result = json.loads((folder / "result.json").read_text("utf-8"))
        weights = folder / "adapter" / "prosg_model.safetensors"
        module = sum(tensor.numel() for tensor in read_tensors(weights).values()) if weights.exists() else None
        numbers = ["all" if module is None else f"{module:,}", f"{result['steps']:,}", f"{result['seconds']:.0f}"]
        table.append([name, *numbers, str(result["skipped"]), reached[result["reached"]]])
        if folder.name == "phase1" and result["reached"] is False:
            missed.append(name)
    blocks: list[Any] = [{"table": table, "caption": "Seconds are wall-clock, beside other trainings on the machine."}]
    if missed:
        blocks.insert(
            0,
            f"Phase 1 did not reach its validation criterion ({', '.join(missed)}). Everything else was trained on it "
            "as it was; low numbers of that seed need not be forgetting.",
        )
    return [{"title": "Training", "blocks": blocks}]
