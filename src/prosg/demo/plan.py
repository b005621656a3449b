"""`prosg demo [--backbone NAME]`: the whole path, made here, on a small model: forget, remember, and the proof.

    data, tokenizer, random weights -> base (single-stage) -> phase 1 -> the frozen backbone gets `paper` and `plus`
    -> evaluation: forgetting curves with controls -> report

With `--full` the rivals stand beside, each at its best on validation rows of the first seed.
Every step is a public command or function with files before and after it, so whatever is stopped goes on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prosg.data.synthetic import DEMO_KINDS
from prosg.demo.measuring import check_seeds, measure, module_systems, system
from prosg.demo.models import DEMO_MODELS, DemoModel
from prosg.demo.rivals import RIVALS, Choice, choose, rival_jobs, rival_systems, write_long_rows
from prosg.demo.trainings import common_options, length, phase1_jobs, prepare, training, training_notes
from prosg.evaluation.config import CurveConfig
from prosg.evaluation.controls import CONDITIONS
from prosg.evaluation.curve_options import check_curve_options
from prosg.evaluation.report.terminal import to_terminal
from prosg.utils.io import written_whole
from prosg.utils.jobs import Job, check_plan, check_width, run_jobs
from prosg.utils.locks import locked
from prosg.utils.paths import user_path
from prosg.utils.spelling import check_known, meant

__all__ = ["Plan", "run_demo"]

RATES = (1e-3, 3e-3, 1e-2)
MODULES = {
    "plus": (("--recipe", "plus"), 110),
    "paper": (("--recipe", "paper", "--module.rank", "3", "--optim.lr", "3e-3"), 70),
    "plus_plain": (("--recipe", "plus-plain"), 100),
    "paper_perturbed": (("--recipe", "paper-perturbed", "--module.rank", "3", "--optim.lr", "3e-3"), 90),
    "plus_long": (("--recipe", "plus"), 110),
}
"""Options of each module's training, and its seconds on a quiet core."""
LABELS = {
    "plus_plain": "plus, unperturbed",
    "paper_perturbed": "paper, perturbed",
    "plus_long": "plus on phase 1 on long rows",
}
"""What tables call modules that differ from a preset in their training."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the demo.

    Attributes:
        backbone: What is trained, one of `DEMO_MODELS`.
        rows: Prompts per cell.
        base_steps: Single-stage steps from random weights.
        phase1_steps: At most, by default the backbone's; it ends when the late stage is exact on validation rows.
        module_steps: Of `paper` and `plus`.
        rivals: Names of the rivals to train, of those that the backbone has; by default all.
        rates: Learning rates that rivals choose from.
        sentences: Lengths of the stories.
    """

    backbone: str = "rwkv4"
    rows: int = 64
    base_steps: int = 300
    phase1_steps: int = 0
    module_steps: int = 1000
    rivals: tuple[str, ...] = ()
    rates: tuple[float, ...] = RATES
    sentences: tuple[int, ...] = tuple(CurveConfig().sentences)

    def __post_init__(self) -> None:
        if self.backbone not in DEMO_MODELS:
            raise ValueError(
                f"--backbone is {self.backbone!r}{meant(self.backbone, DEMO_MODELS)}; allowed: {', '.join(DEMO_MODELS)}"
            )
        if not self.rates or min(self.rates) <= 0 or len(set(self.rates)) < len(self.rates):
            shown = ", ".join(map(str, self.rates)) or "empty"
            raise ValueError(f"--rates is {shown}; give numbers above 0, each once")
        check_curve_options(rows=self.rows, sentences=self.sentences, kinds=DEMO_KINDS, split="test")
        object.__setattr__(self, "phase1_steps", self.phase1_steps or self.model.phase1_steps)
        possible = tuple(name for name, _ in self.model.rivals)
        check_known(f"--rivals with {self.backbone}", self.rivals, possible)
        object.__setattr__(self, "rivals", self.rivals or possible)
        for name in self.rivals:
            if (ground := RIVALS[name].on) in RIVALS and ground not in self.rivals:
                raise ValueError(f"--rivals has {name}, which goes on from {ground}; add that one")

    @property
    def model(self) -> DemoModel:
        """The backbone and how it is trained."""
        return DEMO_MODELS[self.backbone]

    @property
    def presets(self) -> tuple[str, ...]:
        """Modules that are trained."""
        return ("plus", "paper") if self.model.paper else ("plus",)

    @property
    def further_modules(self) -> tuple[str, ...]:
        """Modules that are trained beside them with the rivals."""
        long = ("plus_long",) if "phase1_long" in self.rivals else ()
        return ("plus_plain", *(("paper_perturbed",) if self.model.paper else ()), *long)


def run_demo(out: str | Path, seeds: Sequence[int], full: bool, jobs: int, plan: Plan, live: bool = True) -> int:
    """Trains, measures and reports; goes on where it was stopped.

    Args:
        out: Folder for everything.
        seeds: One run of trainings each; prompts are those of the first.
        full: With the rivals.
        jobs: Processes side by side.
        plan: Sizes.
        live: A live display; else lines.

    Returns:
        The exit status.

    Raises:
        ValueError: for seeds that are negative or named twice, no processes, and a folder that was begun with another
            plan.
    """
    check_width(jobs)
    check_seeds(seeds)
    out = Path(user_path(out))
    with locked(out):
        return _run(out, seeds, full, jobs, plan, live)


def _run(out: Path, seeds: Sequence[int], full: bool, jobs: int, plan: Plan, live: bool) -> int:
    check_plan(out / "plan.json", dataclasses.asdict(plan), "--out")
    dtype = _dtype(out, plan)
    folders = {seed: out / f"seed-{seed}" for seed in seeds}
    for seed, folder in folders.items():
        prepare(folder, seed, plan.model.fresh, 32 * plan.phase1_steps // 2)
    choice: Choice | None = None
    notes: list[dict[str, Any]] = []
    first = seeds[0]
    try:
        work = [job for seed, folder in folders.items() for job in _trainings(folder, seed, plan, dtype)]
        if not full:
            run_jobs(work, jobs, live)
        else:
            for seed, folder in folders.items():
                write_long_rows(folder, seed)
            alone = [name for name in plan.rivals if RIVALS[name].on not in RIVALS]
            work += rival_jobs(folders[first], first, plan.model, dtype, dict.fromkeys(alone, plan.rates))
            run_jobs(work, jobs, live)
            choice, notes = choose(out, folders[first], first, alone, plan.rates, jobs, live)
            # What goes on from another rival takes the rate that suits the same training from phase 1.
            for name in plan.rivals:
                if name not in alone:
                    choice.rates[name] = choice.rates.get("phase1_perturbed", plan.rates[0])
            rates = {name: (rate,) for name, rate in choice.rates.items()}
            for seed, folder in folders.items():
                work += rival_jobs(folder, seed, plan.model, dtype, rates)
                work += _further_modules(folder, seed, plan, dtype, choice)
            run_jobs(list({job.name: job for job in work}.values()), jobs, live)
    except ChildProcessError as error:
        print(error, file=sys.stderr)
        return 1
    names = {f"{path.name}, seed {seed}": path for seed, folder in folders.items() for path in _trained(folder)}
    status, run = measure(
        out / "evaluation",
        {
            name: options
            for seed, folder in folders.items()
            for name, options in _systems(folder, seed, plan, choice).items()
        },
        curve={"rows": plan.rows, "sentences": list(plan.sentences)},
        seed=seeds[0],
        reference=f"plus, {CONDITIONS['own'].label}",
        title=f"The forgetting curve, {plan.backbone}",
        notes=[*training_notes(names), *notes, _plan_note(plan, dtype)],
        jobs=jobs,
        live=live,
    )
    print(to_terminal(run, ("phase 1", f"plus, {CONDITIONS['own'].label}")))
    print(
        "\n"
        + "\n".join(str(run.folder / name) for name in ("report.html", "report.md", "results.json", "forgetting.png"))
    )
    return status


def _trainings(folder: Path, seed: int, plan: Plan, dtype: str) -> list[Job]:
    """Base, phase 1 and the presets of one seed; names are those of the output folders."""
    return phase1_jobs(folder, seed, dtype, plan.base_steps, plan.phase1_steps) + [
        _module(folder, seed, plan, dtype, preset, "phase1") for preset in plan.presets
    ]


def _further_modules(folder: Path, seed: int, plan: Plan, dtype: str, choice: Choice) -> list[Job]:
    """Modules beside the presets, the last one on phase 1 on long rows."""
    long = f"phase1_long-{choice.rates.get('phase1_long', 0):g}"
    return [
        _module(folder, seed, plan, dtype, name, long if name == "plus_long" else "phase1")
        for name in plan.further_modules
    ]


def _module(folder: Path, seed: int, plan: Plan, dtype: str, name: str, on: str) -> Job:
    recipe, seconds = MODULES[name]
    options = (*common_options(seed, dtype), *length(plan.module_steps), "--eval-steps", "250", *recipe)
    if "plus" in recipe:
        options = (*options, *plan.model.plus)
    return training(name, "synthesize", folder, f"{on}/model", "train.jsonl", seconds, *options)


def _systems(folder: Path, seed: int, plan: Plan, choice: Choice | None) -> dict[str, dict[str, Any]]:
    """Everything that is measured of a seed, in the order of tables."""
    systems = {f"phase1-{seed}": system(folder / "phase1", seed, "phase 1")}
    for whose in ("other", "own") if choice is None else ("other", "mean", "own"):
        anchored = {"memory": "anchor", "update": whose}
        label = {"other": "another prompt's", "mean": "the mean", "own": "own"}[whose]
        systems[f"anchor-{whose}-{seed}"] = system(folder / "phase1", seed, f"phase 1, anchored, {label}", **anchored)
    for preset in reversed(plan.presets):
        systems |= module_systems(folder / preset, seed, preset)
    if choice is not None:
        for name in plan.further_modules:
            conditions = ("own",) if name == "plus_long" else ("own", "other", "wiped")
            systems |= module_systems(folder / name, seed, name, conditions, LABELS[name])
        systems |= rival_systems(folder, seed, choice)
    return systems


def _trained(folder: Path) -> list[Path]:
    return [path.parent for path in sorted(folder.glob("*/result.json"))]


def _plan_note(plan: Plan, dtype: str) -> dict[str, Any]:
    lines = [["", ""], ["dtype of training", dtype]]
    lines += [[name, str(value)] for name, value in dataclasses.asdict(plan).items()]
    return {"title": "Sizes", "blocks": [{"table": lines, "caption": "Options of the demo."}]}


def _dtype(out: Path, plan: Plan) -> str:
    """Probed once for a folder, on one thread as the jobs run, and recorded."""
    from prosg.training.precision import probe_dtype

    path = out / "dtype"
    if not path.exists():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with written_whole(path) as temporary:
            temporary.write_text(probe_dtype(plan.model.fresh(0)), "utf-8")
        torch.set_num_threads(threads)
    return path.read_text("utf-8")
