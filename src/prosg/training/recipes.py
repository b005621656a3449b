"""Recipes: defaults of a training that belong together."""

from __future__ import annotations

from typing import Literal, NamedTuple

from prosg.model.config import PRESETS, ProSGConfig
from prosg.training.config import Optimisation, Perturbation

__all__ = ["RECIPES", "Recipe", "check_recipe"]


class Recipe(NamedTuple):
    """Defaults that belong together."""

    phase: Literal["finetune", "synthesize", "static", "state"]
    module: ProSGConfig = ProSGConfig()
    perturbation: Perturbation = Perturbation()
    optim: Optimisation = Optimisation()


_FINETUNE = Optimisation(lr=1e-5, late_weight=1.0)


_DURABLE = Perturbation(age=0.4, cut=0.4)


_DURABLE_LOAD = Perturbation(load=0.5, load_story=0.5)


RECIPES: dict[str, Recipe] = {
    "plain": Recipe("finetune", optim=_FINETUNE),
    "durable": Recipe("finetune", perturbation=_DURABLE, optim=_FINETUNE),
    "durable-load": Recipe("finetune", perturbation=_DURABLE_LOAD, optim=_FINETUNE),
    "paper": Recipe("synthesize", module=PRESETS["paper"], optim=Optimisation(lr=1e-3, late_weight=1.0)),
    "plus": Recipe(
        "synthesize",
        module=PRESETS["plus"],
        perturbation=Perturbation(wipe_first=0.9, wipe_last=0.05, load=0.5, load_story=0.5),
    ),
    "static": Recipe("static", module=PRESETS["static"], optim=Optimisation(lr=3e-3)),
    "static-durable": Recipe("static", module=PRESETS["static"], perturbation=_DURABLE, optim=Optimisation(lr=3e-3)),
    "static-durable-load": Recipe(
        "static", module=PRESETS["static"], perturbation=_DURABLE_LOAD, optim=Optimisation(lr=3e-3)
    ),
    "state": Recipe("state", optim=Optimisation(lr=0.1)),
}
"""What suits an update (the state may be gone, or full), and what suits durable fine-tuning: of RWKV-4, whose memory
fades with the number of tokens (durable), and of RWKV-7, whose memory fills up instead (durable-load).

A state has no fan-in and starts from nothing, so its rate is large; `docs/state-tuning.md` has what others gave.

plain and durable start from the rate for pretrained checkpoints; a model trained from scratch takes a hundred times it.
"""


def check_recipe(phase: str, recipe: str) -> None:
    """Raises ValueError for a recipe of another phase; "" is none."""
    allowed = [name for name, known in RECIPES.items() if known.phase == phase]
    if recipe and recipe not in allowed:
        raise ValueError(f"recipe is {recipe!r}; for {phase} allowed: {', '.join(allowed)}")
