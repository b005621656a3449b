"""`prosg demo [--backbone NAME]`: the whole path, made here, on a small model: forget, remember, and the proof.

    data, tokenizer, random weights -> base (single-stage) -> phase 1 -> the frozen backbone gets `paper` and `plus`
    -> forgetting curves with controls -> results.json, report.md, forgetting.png

With `--full` the rivals stand beside, each with the best of three learning rates on validation rows of the first seed.
Every job is a public command with files before and after it, so whatever is stopped goes on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prosg.checkpoints.backbone import save_backbone
from prosg.data.row import write_rows
from prosg.data.synthetic import DEMO_KINDS, PLAIN, SENTENCES, Setting, make_rows
from prosg.demo.models import SUBJECTS, Subject
from prosg.tokenizers.bpe import train_bpe
from prosg.utils.environment import commit, processor, versions
from prosg.utils.io import write_json
from prosg.utils.jobs import Job, check_plan, run_jobs

__all__ = ["Plan", "common", "measuring", "phase1_jobs", "prepare", "run", "runs", "steps", "training"]

RATES = (1e-3, 3e-3, 1e-2)
RIVAL_ROWS = 48
"""Validation rows on which it chooses."""
RIVAL_SENTENCES = (5, 60, 125)
RIVALS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "phase1_more": ("finetune", "plain", ()),
    "phase1_perturbed": ("finetune", "{durable}", ()),
    "phase1_replay": ("finetune", "plain", ("--replay", "0.5")),
    "static": ("static", "static", ()),
    "static_perturbed": ("static", "static-{durable}", ()),
}
"""Phase, recipe and further options of each."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the demo.

    Attributes:
        backbone: What is trained, one of `SUBJECTS`.
        rows: Rows per cell.
        base_steps: Single-stage steps from random weights.
        phase1_steps: At most, by default the backbone's; it ends when the late stage is exact on validation rows.
        module_steps: Of `paper` and `plus`.
        rival_steps: Steps of each rival; by default the backbone's.
    """

    backbone: str = "rwkv4"
    rows: int = 64
    base_steps: int = 300
    phase1_steps: int = 0
    module_steps: int = 1000
    rival_steps: tuple[tuple[str, int], ...] = ()
    rates: tuple[float, ...] = RATES

    def __post_init__(self) -> None:
        if self.backbone not in SUBJECTS:
            raise ValueError(f"--backbone is {self.backbone!r}; allowed: {', '.join(SUBJECTS)}")
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"--rates is {', '.join(map(str, self.rates)) or 'empty'}; give numbers above 0")
        object.__setattr__(self, "phase1_steps", self.phase1_steps or self.subject.phase1_steps)
        object.__setattr__(self, "rival_steps", self.rival_steps or self.subject.rivals)

    @property
    def subject(self) -> Subject:
        """What the backbone brings."""
        return SUBJECTS[self.backbone]


def run(out: str | Path, seeds: Sequence[int], full: bool, jobs: int, plan: Plan, live: bool = True) -> int:
    """Train, measure and report; goes on where it was stopped. Returns the exit status."""
    from prosg.evaluation.demo_report import write_report

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    check_plan(out / "plan.json", dataclasses.asdict(plan), "--out")
    start = time.perf_counter()
    dtype = _dtype(out, plan)
    folders = {seed: out / f"seed-{seed}" for seed in seeds}
    rivals = [name for name, _ in plan.rival_steps]
    for seed, folder in folders.items():
        prepare(folder, seed, plan.subject.fresh, 32 * plan.phase1_steps // 2)
    first = seeds[0]
    try:
        work = [job for seed, folder in folders.items() for job in _trainings(folder, seed, plan, dtype)]
        work += [job for seed, folder in folders.items() for job in _curves(folder, seed, plan)]
        if full:
            work += _rivals(folders[first], first, plan, dtype, dict.fromkeys(rivals, plan.rates))
            work += _choices(folders[first], first, rivals, plan.rates)
        run_jobs(work, jobs, live)
        if full:
            best = _choose(folders[first], rivals, plan.rates)
            chosen = {name: (rate,) for name, rate in best.items()}
            others = {seed: folder for seed, folder in folders.items() if seed != first}
            work += [job for seed, folder in others.items() for job in _rivals(folder, seed, plan, dtype, chosen)]
            work += [job for seed, folder in folders.items() for job in _rival_curves(folder, seed, plan, best)]
            run_jobs(work, jobs, live)
    except ChildProcessError as error:
        print(error, file=sys.stderr)
        return 1
    about = {
        "command": shlex.join(["prosg", *sys.argv[1:]]),
        "dtype": dtype,
        "seconds": round(time.perf_counter() - start),
        "machine": f"{processor()}, {os.cpu_count()} cores, {jobs} jobs of one thread side by side",
        "versions": versions(),
        "commit": commit(),
        "plan": dataclasses.asdict(plan),
        "runs": {str(seed): runs(folder) for seed, folder in folders.items()},
    }
    print(write_report(out, list(folders.values()), about))
    return 0


def prepare(
    folder: Path,
    seed: int,
    fresh: Callable[[int], Any],
    size: int,
    kinds: Sequence[str] = DEMO_KINDS,
    sentences: tuple[int, int] = SENTENCES,
    setting: Setting = PLAIN,
    easier: int = 0,
) -> None:
    """Rows, tokenizer and random weights of one seed, unless they are there.

    data/base.jsonl has single-stage rows, data/train.jsonl `size` with stories, a tenth as many without, and `easier`
    ones of the demo's.
    """
    data, start = folder / "data", folder / "start"
    if (start / "config.json").exists():
        return
    data.mkdir(parents=True, exist_ok=True)
    rows = make_rows(kinds, size, seed, "train", sentences=sentences, setting=setting)
    bare = Setting(items=setting.items)
    single = make_rows(kinds, size // 5, seed, "train", sentences=(0, 0), setting=bare)
    plain = make_rows(("story",), size // 25, seed, "train")
    write_rows(data / "base.jsonl", [*single, *plain])
    demo = make_rows(kinds, easier, seed, "train") if easier else []
    write_rows(data / "train.jsonl", [*rows, *single[: size // 10], *demo])
    validation = make_rows(kinds, 192, seed, "validation", sentences=sentences, setting=setting)
    write_rows(data / "validation.jsonl", validation)
    tokenizer = train_bpe([text for row in rows[:3000] for text in (row.prompt, row.answer)])
    save_backbone(fresh(seed), start, tokenizer=tokenizer.save(data))


def training(name: str, phase: str, folder: Path, model: str, data: str, seconds: float, *options: str) -> Job:
    """Train `name` in a seed's folder, on what another run there left (`model`) and on a file of its data."""
    output = folder / name
    command = ["train", phase, "--model", str(folder / model), "--train", str(folder / "data" / data)]
    command += ["--validation", str(folder / "data" / "validation.jsonl"), "--output", str(output)]
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


def common(seed: int, dtype: str) -> tuple[str, ...]:
    """Options of every training."""
    return ("--seed", str(seed), "--dtype", dtype, "--progress", "false", "--save_steps", "250")


def steps(count: int) -> tuple[str, ...]:
    """The option of a training's length."""
    return ("--optim.steps", str(count))


def phase1_jobs(folder: Path, seed: int, dtype: str, base: int, phase1: int, *options: str) -> list[Job]:
    """From random weights: `base` single-stage steps, then phase 1 until validation rows are right, or `phase1`.

    options: further ones of phase 1.
    """
    scratch = (*common(seed, dtype), "--optim.lr", "3e-3")  # the recipes' rates are for pretrained weights
    until = ("--stop.times", "2", "--stop.value", "0.985", "--eval_steps", "100")
    return [
        training("base", "finetune", folder, "start", "base.jsonl", 20, *scratch, *steps(base)),
        training(
            "phase1", "finetune", folder, "base/model", "train.jsonl", 110, *scratch, *until, *steps(phase1), *options
        ),
    ]


def _trainings(folder: Path, seed: int, plan: Plan, dtype: str) -> list[Job]:
    """Base, phase 1 and both presets of one seed; names are those of the output folders."""
    module = (*common(seed, dtype), *steps(plan.module_steps), "--eval_steps", "250")
    plus = (*module, "--recipe", "plus", *plan.subject.plus)
    paper = (*module, "--recipe", "paper", "--module.rank", "3", "--optim.lr", "3e-3")
    jobs = phase1_jobs(folder, seed, dtype, plan.base_steps, plan.phase1_steps)
    jobs.append(training("plus", "synthesize", folder, "phase1/model", "train.jsonl", 110, *plus))
    if plan.subject.paper:
        jobs.append(training("paper", "synthesize", folder, "phase1/model", "train.jsonl", 70, *paper))
    return jobs


def _rivals(folder: Path, seed: int, plan: Plan, dtype: str, rates: Mapping[str, tuple[float, ...]]) -> list[Job]:
    """The rivals' trainings, at these learning rates."""
    jobs = []
    for name, count in plan.rival_steps:
        phase, recipe, extra = RIVALS[name]
        for rate in rates[name]:
            recipe = recipe.format(durable=plan.subject.durable)
            tuned = ("--recipe", recipe, "--optim.lr", str(rate), "--optim.late_weight", "3", *extra)
            options = (*common(seed, dtype), *tuned, *steps(count), "--eval_steps", "400")
            jobs.append(training(f"{name}-{rate:g}", phase, folder, "phase1/model", "train.jsonl", 120, *options))
    return jobs


def measuring(name: str, folder: Path, run_name: str, system: str, seed: int, seconds: float, *options: str) -> Job:
    """Measure what a training left."""
    out = folder / "curves" / f"{name}.json"
    made = "model" if run_name.startswith("phase1") else "adapter"
    command = ["curve", str(folder / run_name / made), "--system", system, "--out", str(out), "--seed", str(seed)]
    return Job(
        f"{folder.name} measure {name}",
        (*command, *options),
        done=out,
        progress=out.with_suffix(".progress"),
        log=out.with_suffix(".txt"),
        needs=(f"{folder.name} {run_name}",),
        seconds=seconds,
    )


def _curves(folder: Path, seed: int, plan: Plan) -> list[Job]:
    """Phase 1 and the presets on the test split, every condition."""
    rows = ("--rows", str(plan.rows))
    cost = plan.rows / 64
    module = (*rows, "--updates", "own,other,mean,none,wiped")
    presets = ("plus", "paper") if plan.subject.paper else ("plus",)
    return [
        measuring("phase1", folder, "phase1", "phase1", seed, 8 * cost, *rows),
        *(measuring(preset, folder, preset, preset, seed, 40 * cost, *module) for preset in presets),
    ]


def _measured_as(name: str) -> tuple[str, ...]:
    """How a rival is measured: with what it has."""
    if name == "phase1_replay":
        return ("--replay",)
    return ("--updates", "own") if name.startswith("static") else ()


def _choices(folder: Path, seed: int, rivals: Sequence[str], rates: Sequence[float]) -> list[Job]:
    """Every rival at every learning rate, on validation rows."""
    rows = ("--rows", str(RIVAL_ROWS), "--split", "validation", "--no-free")
    lengths = ("--sentences", *map(str, RIVAL_SENTENCES))
    return [
        measuring(
            f"choose-{name}-{rate:g}", folder, f"{name}-{rate:g}", name, seed, 12, *rows, *_measured_as(name), *lengths
        )
        for name in rivals
        for rate in rates
    ]


def _choose(folder: Path, rivals: Sequence[str], rates: Sequence[float]) -> dict[str, float]:
    """Each rival's best rate: late accuracy on validation rows, mean over the distances. All are logged."""
    log: dict[str, dict[str, float]] = {}
    for name in rivals:
        log[name] = {}
        for rate in rates:
            cells = json.loads((folder / "curves" / f"choose-{name}-{rate:g}.json").read_text("utf-8"))["rows"]
            scores = [cell["late_accuracy"] for cell in cells if cell["kind"] == "all"]
            log[name][f"{rate:g}"] = sum(scores) / len(scores)
    best = {name: max(rates, key=lambda rate, name=name: log[name][f"{rate:g}"]) for name in log}  # type: ignore[misc]
    write_json(folder / "rates.json", {"late_accuracy": log, "chosen": best})
    return best


def _rival_curves(folder: Path, seed: int, plan: Plan, best: dict[str, float]) -> list[Job]:
    rows = ("--rows", str(plan.rows))
    return [
        measuring(name, folder, f"{name}-{rate:g}", name, seed, 10 * plan.rows / 64, *rows, *_measured_as(name))
        for name, rate in best.items()
    ]


def _dtype(out: Path, plan: Plan) -> str:
    """Probed once for a folder, on one thread as the jobs run, and recorded."""
    from prosg.training.precision import probe_dtype

    path = out / "dtype"
    if not path.exists():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        path.write_text(probe_dtype(plan.subject.fresh(0)))
        torch.set_num_threads(threads)
    return path.read_text()


def runs(folder: Path) -> dict[str, Any]:
    """Steps and seconds of every training of a seed."""
    found = {}
    for path in sorted(folder.glob("*/result.json")):
        result = json.loads(path.read_text("utf-8"))
        config = json.loads((path.parent / "config.json").read_text("utf-8"))
        found[path.parent.name] = {
            **{key: result[key] for key in ("steps", "seconds", "skipped", "reached")},
            **{key: config[key] for key in ("recipe", "module", "perturbation", "optim")},
        }
    return found
