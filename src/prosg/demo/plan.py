"""`prosg demo [--backbone NAME]`: the whole path, made here, on a small model: forget, remember, and the proof.

    data, tokenizer, random weights -> base (single-stage) -> phase 1 -> the frozen backbone gets `paper` and `plus`
    -> evaluation: forgetting curves with controls -> report

With `--full` the rivals stand beside, each with the best of three learning rates on validation rows of the first seed.
Every step is a public command or function with files before and after it, so whatever is stopped goes on.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prosg.demo.measuring import RIVALS, measure, module_systems, system
from prosg.demo.models import DEMO_MODELS, DemoModel
from prosg.demo.trainings import common_options, length, phase1_jobs, prepare, training, training_notes
from prosg.evaluation.config import CurveConfig
from prosg.evaluation.controls import CONDITIONS
from prosg.evaluation.formatting import amount
from prosg.evaluation.report.terminal import to_terminal
from prosg.evaluation.results import Run
from prosg.training.config import Phase
from prosg.utils.io import write_json
from prosg.utils.jobs import Job, check_plan, run_jobs

__all__ = ["Plan", "run_demo"]

RATES = (1e-3, 3e-3, 1e-2)
CHOICE = {"rows": 48, "sentences": [5, 60, 125]}
"""Validation rows and story lengths on which a rival's learning rate is chosen."""
RIVAL_TRAININGS: dict[str, tuple[Phase, str, tuple[str, ...]]] = {
    "phase1_more": ("finetune", "plain", ()),
    "phase1_perturbed": ("finetune", "{durable}", ()),
    "phase1_replay": ("finetune", "plain", ("--replay", "0.5")),
    "static": ("static", "static", ()),
    "static_perturbed": ("static", "static-{durable}", ()),
}
"""Phase, recipe and further options of each rival."""


@dataclass(frozen=True)
class Plan:
    """Sizes of the demo.

    Attributes:
        backbone: What is trained, one of `DEMO_MODELS`.
        rows: Prompts per cell.
        base_steps: Single-stage steps from random weights.
        phase1_steps: At most, by default the backbone's; it ends when the late stage is exact on validation rows.
        module_steps: Of `paper` and `plus`.
        rival_steps: Steps of each rival; by default the backbone's.
        rates: Learning rates that rivals choose from.
        sentences: Lengths of the stories.
    """

    backbone: str = "rwkv4"
    rows: int = 64
    base_steps: int = 300
    phase1_steps: int = 0
    module_steps: int = 1000
    rival_steps: tuple[tuple[str, int], ...] = ()
    rates: tuple[float, ...] = RATES
    sentences: tuple[int, ...] = tuple(CurveConfig().sentences)

    def __post_init__(self) -> None:
        if self.backbone not in DEMO_MODELS:
            raise ValueError(f"--backbone is {self.backbone!r}; allowed: {', '.join(DEMO_MODELS)}")
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"--rates is {', '.join(map(str, self.rates)) or 'empty'}; give numbers above 0")
        object.__setattr__(self, "phase1_steps", self.phase1_steps or self.model.phase1_steps)
        object.__setattr__(self, "rival_steps", self.rival_steps or self.model.rivals)

    @property
    def model(self) -> DemoModel:
        """The backbone and how it is trained."""
        return DEMO_MODELS[self.backbone]

    @property
    def presets(self) -> tuple[str, ...]:
        """Modules that are trained."""
        return ("plus", "paper") if self.model.paper else ("plus",)


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
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    check_plan(out / "plan.json", dataclasses.asdict(plan), "--out")
    dtype = _dtype(out, plan)
    folders = {seed: out / f"seed-{seed}" for seed in seeds}
    for seed, folder in folders.items():
        prepare(folder, seed, plan.model.fresh, 32 * plan.phase1_steps // 2)
    best: dict[str, float] = {}
    notes: list[dict[str, Any]] = []
    try:
        work = [job for seed, folder in folders.items() for job in _trainings(folder, seed, plan, dtype)]
        rivals = [name for name, _ in plan.rival_steps] if full else []
        if rivals:
            work += _rival_trainings(folders[seeds[0]], seeds[0], plan, dtype, dict.fromkeys(rivals, plan.rates))
        run_jobs(work, jobs, live)
        if rivals:
            best, notes = _choose_rates(out, folders[seeds[0]], seeds[0], rivals, plan.rates, jobs, live)
            rates = {name: (rate,) for name, rate in best.items()}
            work += [job for seed in seeds[1:] for job in _rival_trainings(folders[seed], seed, plan, dtype, rates)]
            run_jobs(work, jobs, live)
    except ChildProcessError as error:
        print(error, file=sys.stderr)
        return 1
    names = {f"{path.name}, seed {seed}": path for seed, folder in folders.items() for path in _trained(folder)}
    status, run = measure(
        out / "evaluation",
        {
            name: options
            for seed, folder in folders.items()
            for name, options in _systems(folder, seed, plan, best).items()
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
    module = (*common_options(seed, dtype), *length(plan.module_steps), "--eval-steps", "250")
    options = {
        "plus": (*module, "--recipe", "plus", *plan.model.plus),
        "paper": (*module, "--recipe", "paper", "--module.rank", "3", "--optim.lr", "3e-3"),
    }
    seconds = {"plus": 110, "paper": 70}
    return phase1_jobs(folder, seed, dtype, plan.base_steps, plan.phase1_steps) + [
        training(preset, "synthesize", folder, "phase1/model", "train.jsonl", seconds[preset], *options[preset])
        for preset in plan.presets
    ]


def _rival_trainings(
    folder: Path, seed: int, plan: Plan, dtype: str, rates: Mapping[str, tuple[float, ...]]
) -> list[Job]:
    """The rivals' trainings, at these learning rates."""
    jobs = []
    for name, steps in plan.rival_steps:
        phase, recipe, extra = RIVAL_TRAININGS[name]
        recipe = recipe.format(durable=plan.model.durable)
        for rate in rates[name]:
            tuned = ("--recipe", recipe, "--optim.lr", str(rate), "--optim.late-weight", "3", *extra)
            options = (*common_options(seed, dtype), *tuned, *length(steps), "--eval-steps", "400")
            jobs.append(training(f"{name}-{rate:g}", phase, folder, "phase1/model", "train.jsonl", 120, *options))
    return jobs


def _choose_rates(
    out: Path, folder: Path, seed: int, rivals: Sequence[str], rates: Sequence[float], jobs: int, live: bool
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Each rival's best rate by late accuracy on validation rows, mean over the lengths; and a table of all."""
    systems = {
        f"{name}-{rate:g}": _rival_system(folder, seed, name, rate, label=f"{name}-{rate:g}")
        for name in rivals
        for rate in rates
    }
    _, run = measure(
        out / "choice",
        systems,
        curve=CHOICE,
        seed=seed,
        split="validation",
        free=False,
        title="Learning rates of the rivals",
        jobs=jobs,
        live=live,
    )
    scores = {result.name: _mean_late(run, result.name) for result in run.systems}
    best = {name: max(rates, key=lambda rate: scores[f"{name}-{rate:g}"]) for name in rivals}
    table = [["rival", *(f"{rate:g}" for rate in rates), "chosen"]]
    for name in rivals:
        table.append([RIVALS[name], *(amount(scores[f"{name}-{rate:g}"]) for rate in rates), f"{best[name]:g}"])
    write_json(out / "rates.json", {"late_accuracy": scores, "chosen": best})
    caption = f"Late accuracy on validation rows of seed {seed} at each learning rate, mean over the lengths."
    return best, [{"title": "Learning rates of the rivals", "blocks": [{"table": table, "caption": caption}]}]


def _mean_late(run: Run, name: str) -> float:
    result = next(result for result in run.systems if result.name == name)
    shares = [sum(late.values()) / len(late) for late in map(result.late_at, result.places)]
    return sum(shares) / len(shares)


def _rival_system(folder: Path, seed: int, name: str, rate: float, label: str) -> dict[str, Any]:
    replay = {"late_replay": True} if name == "phase1_replay" else {}
    return system(folder / f"{name}-{rate:g}", seed, label, **replay)


def _systems(folder: Path, seed: int, plan: Plan, best: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Everything that is measured of a seed, in the order of tables."""
    systems = {f"phase1-{seed}": system(folder / "phase1", seed, "phase 1")}
    for whose, label in (("other", "another prompt's"), ("own", "own")):
        anchored = {"memory": "anchor", "update": whose}
        systems[f"anchor-{whose}-{seed}"] = system(folder / "phase1", seed, f"phase 1, anchored, {label}", **anchored)
    for preset in reversed(plan.presets):
        systems |= module_systems(folder / preset, seed, preset)
    for name, rate in best.items():
        systems[f"{name}-{seed}"] = _rival_system(folder, seed, name, rate, RIVALS[name])
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
        path.write_text(probe_dtype(plan.model.fresh(0)))
        torch.set_num_threads(threads)
    return path.read_text()
