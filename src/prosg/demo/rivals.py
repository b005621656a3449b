"""What an update is measured against, each at its best: other trainings, and remedies that need none.

    trained     phase 1 continued, in several ways; static adapters; `paper` and `plus` with and without perturbations
    untrained   the anchor; refresh: the state begun anew from the prompt and the answer's last tokens

Learning rates, and how much of the answer a refresh reads once more, are chosen on validation rows of the first seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.row import write_rows
from prosg.data.synthetic import DEMO_KINDS, make_rows
from prosg.demo.measuring import measure, system
from prosg.demo.models import DemoModel
from prosg.demo.trainings import common_options, length, training
from prosg.evaluation.formatting import amount
from prosg.evaluation.results import Run
from prosg.training.config import Phase
from prosg.utils.io import write_json
from prosg.utils.jobs import Job

__all__ = ["LONG_SENTENCES", "RIVALS", "Choice", "Rival", "choose", "rival_jobs", "rival_systems", "write_long_rows"]

LONG_SENTENCES = (1, 55)
"""Stories of the long rows: texts of some 30 to 530 tokens."""
LONG_ROWS = 12_000
CHOICE = {"rows": 48, "sentences": [5, 60, 125]}
"""Validation rows and story lengths on which is chosen."""


class Rival(NamedTuple):
    """A training that stands beside the module's."""

    label: str
    """what tables call it"""
    phase: Phase
    recipe: str
    """"{durable}" is replaced by the backbone's"""
    options: tuple[str, ...] = ()
    """further ones of its training"""
    data: str = "train.jsonl"
    on: str = "phase1"
    """the training that it goes on from, another rival's or phase 1"""
    late_replay: bool = False


RIVALS: dict[str, Rival] = {
    "phase1_more": Rival("phase 1 continued", "finetune", "plain"),
    "phase1_perturbed": Rival("durable fine-tuning", "finetune", "{durable}"),
    "state_passing": Rival("state passing", "finetune", "state-passing"),
    "phase1_replay": Rival(
        "phase 1 continued, prompt read again", "finetune", "plain", ("--replay", "0.5"), late_replay=True
    ),
    "phase1_long": Rival("phase 1 on long rows", "finetune", "plain", data="long.jsonl"),
    "static": Rival("static adapter", "static", "static"),
    "static_perturbed": Rival("static adapter, perturbed", "static", "static-{durable}"),
    "long_perturbed": Rival("long rows, then durable fine-tuning", "finetune", "{durable}", on="phase1_long"),
}
"""By the names of their trainings, in the order of tables."""

REFRESH_KEEP = (0, 10, 30, 50)
"""Tokens of the story that a refresh before the late stage may read once more."""
REFRESH_EVERY = ((20, 5), (40, 10), (40, 20), (80, 30))
"""How often a refresh may come that does not know where the late stage is, and what it may read once more."""


class Choice(NamedTuple):
    """What was chosen on validation rows."""

    rates: dict[str, float]
    """rival -> learning rate"""
    refresh_keep: int
    """of a refresh before the late stage"""
    refresh_every: tuple[int, int]
    """tokens from one refresh to the next, and tokens read once more"""


def write_long_rows(folder: Path, seed: int) -> None:
    """Writes data/long.jsonl of a seed: rows whose stories are up to ten times as long; unless it is there."""
    path = folder / "data" / "long.jsonl"
    if not path.exists():
        write_rows(path, make_rows(DEMO_KINDS, LONG_ROWS, seed, "train", sentences=LONG_SENTENCES))


def rival_jobs(
    folder: Path, seed: int, model: DemoModel, dtype: str, rates: Mapping[str, Sequence[float]]
) -> list[Job]:
    """The trainings of the rivals in `rates`, at these learning rates.

    One that goes on from another rival goes on from the first of that one's rates.
    """
    jobs = []
    for name, steps in model.rivals:
        if name not in rates:
            continue
        rival = RIVALS[name]
        recipe = rival.recipe.format(durable=model.durable)
        ground = f"{rival.on}-{rates[rival.on][0]:g}" if rival.on in RIVALS else rival.on
        for rate in rates[name]:
            tuned = ("--recipe", recipe, "--optim.lr", str(rate), "--optim.late-weight", "3", *rival.options)
            options = (*common_options(seed, dtype), *tuned, *length(steps), "--eval-steps", "400")
            jobs.append(training(f"{name}-{rate:g}", rival.phase, folder, f"{ground}/model", rival.data, 300, *options))
    return jobs


def choose(
    out: Path, folder: Path, seed: int, rivals: Sequence[str], rates: Sequence[float], jobs: int, live: bool
) -> tuple[Choice, list[dict[str, Any]]]:
    """Chooses by late accuracy on validation rows, mean over the lengths; and a section that has all figures.

    Of refreshes that are equally good the one that reads least is chosen.

    Args:
        out: The demo's folder.
        folder: Of the seed on which is chosen.
        seed: Of its trainings and of the prompts.
        rivals: Trained at each of `rates`.
        rates: Learning rates.
        jobs: Processes side by side.
        live: A live display; else lines.

    Raises:
        ChildProcessError: where something could not be measured.
    """
    systems = {
        f"{name}-{rate:g}": _trained(folder, seed, name, rate, label=f"{name}-{rate:g}")
        for name in rivals
        for rate in rates
    }
    late = {keep: f"refresh-late-{keep}" for keep in REFRESH_KEEP}
    often = {pair: f"refresh-every-{pair[0]}-{pair[1]}" for pair in REFRESH_EVERY}
    for keep, name in late.items():
        systems[name] = system(folder / "phase1", seed, name, late_refresh=True, refresh_keep=keep)
    for (every, keep), name in often.items():
        systems[name] = system(folder / "phase1", seed, name, refresh_every=every, refresh_keep=keep)
    status, run = measure(
        out / "choice",
        systems,
        curve=CHOICE,
        seed=seed,
        split="validation",
        measures=("curve",),
        title="Learning rates and refreshes",
        jobs=jobs,
        live=live,
    )
    if status:
        raise ChildProcessError(f"{out / 'choice'}: not everything was measured; the same command goes on")
    scores = {result.name: _mean_late(run, result.name) for result in run.systems}
    best = {name: max(rates, key=lambda rate: scores[f"{name}-{rate:g}"]) for name in rivals}
    keep = max(late, key=lambda keep: (scores[late[keep]], -keep))
    pair = max(often, key=lambda pair: (scores[often[pair]], -pair[1] / pair[0]))
    table = [["rival", *(f"{rate:g}" for rate in rates), "chosen"]]
    for name in rivals:
        values = [amount(scores[f"{name}-{rate:g}"]) for rate in rates]
        table.append([RIVALS[name].label, *values, f"{best[name]:g}"])
    refreshes: list[list[str]] = [["refresh", "tokens read once more", "late stage right", "chosen"]]
    for kept, name in late.items():
        refreshes.append(["before the late stage", str(kept), amount(scores[name]), "yes" if kept == keep else ""])
    for (every, kept), name in often.items():
        chosen = "yes" if (every, kept) == pair else ""
        refreshes.append([f"every {every} tokens", str(kept), amount(scores[name]), chosen])
    write_json(out / "choice.json", {"late_accuracy": scores, "rates": best, "keep": keep, "every": list(pair)})
    caption = f"Late accuracy on validation rows of seed {seed}, mean over the lengths."
    blocks = [{"table": table, "caption": f"{caption} By learning rate."}, {"table": refreshes, "caption": caption}]
    return Choice(best, keep, pair), [{"title": "Chosen on validation rows", "blocks": blocks}]


def _mean_late(run: Run, name: str) -> float:
    result = next(result for result in run.systems if result.name == name)
    shares = [sum(late.values()) / len(late) for late in map(result.late_at, result.places)]
    return sum(shares) / len(shares)


def _trained(folder: Path, seed: int, name: str, rate: float, label: str = "", **options: Any) -> dict[str, Any]:
    rival = RIVALS[name]
    replay = {"late_replay": True} if rival.late_replay else {}
    return system(folder / f"{name}-{rate:g}", seed, label or rival.label, **replay, **options)


def rival_systems(folder: Path, seed: int, choice: Choice) -> dict[str, dict[str, Any]]:
    """What is measured of a seed beside the module: refreshes of phase 1, and the rivals at their best."""
    keep, (every, kept) = choice.refresh_keep, choice.refresh_every
    phase1 = folder / "phase1"
    systems = {
        f"refresh_marker-{seed}": system(
            phase1, seed, "refresh before the late stage", late_refresh=True, refresh_keep=keep
        ),
        f"refresh_every-{seed}": system(
            phase1, seed, f"refresh every {every} tokens", refresh_every=every, refresh_keep=kept
        ),
    }
    for name, rate in choice.rates.items():
        systems[f"{name}-{seed}"] = _trained(folder, seed, name, rate)
        if name == "phase1_long":
            anchored = f"{RIVALS[name].label}, anchored"
            systems[f"long_anchor-{seed}"] = _trained(folder, seed, name, rate, anchored, memory="anchor")
    return systems
