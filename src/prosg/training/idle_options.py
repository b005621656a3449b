"""Options of a run that do nothing in it: nothing is wrong with them, but whoever set one expected something."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from prosg.data.encode import EncodedRow
from prosg.data.joined import sample_rows
from prosg.model.config import PRESETS, ProSGConfig, Reads
from prosg.training.config import Phase, TrainConfig
from prosg.training.known_prompts import too_few
from prosg.training.recipes import RECIPES, Recipe
from prosg.utils import distributed

__all__ = ["doubtful_sizes", "idle_options"]

MANY_EPOCHS = 200
"""Times that a row is read; so many are mostly the default number of steps on a small file."""
ATTENTION = ("log_length", "reference_length")
POSITIONS = ("bottleneck", "memory_tap", *ATTENTION)
STACK = ("state_embedding", "blocks", "hidden", "share_stack", "final_norm")
NOT_READ: dict[Reads, tuple[str, ...]] = {
    "nothing": (*POSITIONS, *STACK),
    "last_input": POSITIONS,
    "last_position": ATTENTION,
    "all_positions": (),
}
"""What a module reads -> its options that mean nothing then."""


def idle_options(phase: Phase, config: TrainConfig, rows: Sequence[EncodedRow]) -> Iterator[str]:
    """Yields a line for each option that was set but is without effect, and for a warm-up that never ends.

    An option counts as set where it differs from its default in the run's recipe.

    Args:
        phase: What is trained.
        config: The run's options.
        rows: Training rows.
    """
    recipe = RECIPES[config.recipe] if config.recipe else Recipe(phase)
    optim, sampled = config.optim, sample_rows(rows)
    staged = any(row.has_stages for row in sampled)
    if optim.warmup_steps >= optim.steps:
        yield (
            f"optim.warmup_steps is {optim.warmup_steps}, the run has {optim.steps} steps: the learning rate does not "
            f"reach its peak, {optim.lr:g}"
        )
    if not staged and optim.late_weight not in (1.0, recipe.optim.late_weight):
        yield f"optim.late_weight is {optim.late_weight:g}, but no row has stages: it has no effect"
    if not staged and config.replay:
        yield f"replay is {config.replay:g}, but no row has stages: it has no effect"
    if phase not in ("synthesize", "static"):
        yield from _without_effect("module", config.module, ProSGConfig(), f"{phase} trains no module")
    else:
        why, usual = f"module.reads is {config.module.reads}", PRESETS[config.module.preset]
        yield from _without_effect("module", config.module, usual, why, NOT_READ[config.module.reads])
    if config.known != TrainConfig.known and not (phase == "synthesize" and config.module.reads_positions):
        why = f"module.reads is {config.module.reads}" if phase == "synthesize" else f"{phase} trains no module"
        yield f"known is {config.known:g}, but {why}: it has no effect"
    if config.distil != TrainConfig.distil and phase not in ("synthesize", "static"):
        yield f"distil is {config.distil}, but {phase} trains no module: it has no effect"
    if not optim.scale_rates and phase != "synthesize":
        yield f"optim.scale_rates is false, but {phase} has one rate for all: it has no effect"
    if config.cache_taps_gb != TrainConfig.cache_taps_gb and not config.cache_taps:
        yield f"cache_taps_gb is {config.cache_taps_gb:g}, but cache_taps names no folder: it has no effect"
    if not config.anchor.enabled:
        yield from _without_effect("anchor", config.anchor, recipe.anchor, "anchor.enabled is false", ("tau", "age"))
    yield from _idle_perturbations(config, recipe, rows)
    if phase in ("synthesize", "static") and not (config.perturbation.active or config.anchor.enabled):
        taught = {"all": "rows", "open": "rows of running text", "none": ""}[config.distil]
        if taught and (config.distil == "all" or any(row.open for row in sampled)):
            yield (
                f"distil is {config.distil}, but no state is perturbed: the model that teaches has all that the one "
                f"that learns has, and {taught} teach nothing"
            )
    yield from _idle_evaluations(config)


def doubtful_sizes(phase: Phase, config: TrainConfig, rows: Sequence[EncodedRow]) -> Iterator[str]:
    """Yields a line for rows that are too few for what is wanted of them.

    Args:
        phase: What is trained.
        config: The run's options.
        rows: Training rows.
    """
    if phase == "synthesize" and config.module.reads_positions and config.known < 1 and (reason := too_few(rows)):
        yield reason
    if (epochs := config.optim.epochs(len(rows))) >= MANY_EPOCHS:
        yield f"every row is read {epochs:,.0f} times; fewer steps (optim.steps) or more rows would do"


def _idle_perturbations(config: TrainConfig, recipe: Recipe, rows: Sequence[EncodedRow]) -> Iterator[str]:
    """Perturbations that cannot occur, and what only shapes those that do not occur."""
    perturbation = config.perturbation
    parts = config.optim.accumulation * distributed.size()
    if perturbation.swap and min(config.optim.batch_size, len(rows)) <= parts:
        yield (
            f"perturbation.swap is {perturbation.swap:g}, but rows are read one at a time, with none to swap with: it "
            "has no effect"
        )
    loads = perturbation.load or perturbation.load_story
    for needs, names, active in (
        ("perturbation.age", ("age_steps",), perturbation.age),
        ("perturbation.cut", ("cut_steps",), perturbation.cut),
        ("age, cut, load and load_story", ("weakest",), perturbation.age or perturbation.cut or loads),
        ("load and load_story", ("load_weight",), loads),
        ("every perturbation", ("first_weight",), perturbation.active),
        (
            "load, load_story and start",
            ("bank_size", "bank_rows", "bank_restart", "bank_start", "bank_reads"),
            perturbation.uses_bank,
        ),
    ):
        if not active:
            are = "are" if " and " in needs else "is"
            yield from _without_effect("perturbation", perturbation, recipe.perturbation, f"{needs} {are} 0", names)


def _idle_evaluations(config: TrainConfig) -> Iterator[str]:
    """What belongs to evaluations or to early stopping, where there is none."""
    fresh = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    if not config.validation and config.eval_steps != fresh["eval_steps"]:
        yield f"eval_steps is {config.eval_steps}, but there is no validation file: it has no effect"
    evaluations = config.optim.steps // config.eval_steps
    if config.stop.patience and evaluations <= config.stop.patience:
        yield f"stop.patience is {config.stop.patience}, but the run has {evaluations} evaluations: it has no effect"
    evaluations = math.ceil(config.optim.steps / config.eval_steps)  # one at the end, too
    if config.stop.times > evaluations:
        yield f"stop.times is {config.stop.times}, but the run has {evaluations} evaluations: it has no effect"
    if not config.stop.times:
        names = ("value",) if config.stop.patience else ("value", "metric")
        why = "stop.times is 0" if config.stop.patience else "stop.times and stop.patience are 0"
        yield from _without_effect("stop", config.stop, type(config.stop)(), why, names)


def _without_effect(
    group: str, options: Any, usual: Any, why: str, names: Sequence[str] | None = None
) -> Iterator[str]:
    """A line for each option of a group that differs from `usual`; `names` are all by default."""
    for name in [field.name for field in dataclasses.fields(options)] if names is None else names:
        if (value := getattr(options, name)) != getattr(usual, name):
            yield f"{group}.{name} is {value}, but {why}: it has no effect"
