"""Recipes: named defaults of a training that belong together."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from prosg.model.config import PRESETS, ProSGConfig
from prosg.training.config import Anchoring, Optimisation, Perturbation, Phase, TrainConfig
from prosg.utils.options import construct, merge, parse, required_options
from prosg.utils.spelling import check_known, meant

__all__ = ["NOT_OF", "RECIPES", "USUAL", "Recipe", "check_recipe", "check_values", "recipe_values", "train_config"]


class Recipe(NamedTuple):
    """Defaults of one phase: what is trained, with which module, how. A preset is the module's part alone."""

    phase: Phase
    about: str = ""
    module: ProSGConfig = ProSGConfig()
    perturbation: Perturbation = Perturbation()
    optim: Optimisation = Optimisation()
    anchor: Anchoring = Anchoring()


# For pretrained checkpoints; a model trained from scratch takes a hundred times this rate.
_FINETUNE = Optimisation(lr=1e-5, late_weight=1.0)
_STATIC = Optimisation(lr=3e-3)
# For memories that fade with the number of tokens, like RWKV-4's.
_DURABLE = Perturbation(age=0.4, cut=0.4)
# For memories that fill up instead, like RWKV-7's.
_DURABLE_LOAD = Perturbation(load=0.5, load_story=0.5)
_PLUS = Perturbation(wipe_first=0.9, wipe_last=0.05, load=0.5, load_story=0.5, first_weight=0.2)
# Attention does not fade: only a row without its prompt teaches the update anything, so half are wiped to the end.
_PLUS_ATTENTION = Perturbation(wipe_first=0.9, wipe_last=0.5, first_weight=0.2)
_STATE_PASSING = Perturbation(start=0.9, bank_size=64, bank_rows=32, bank_restart=0.02, bank_reads="row")

RECIPES: dict[str, Recipe] = {
    "plain": Recipe("finetune", "fine-tuning as it is: the loss of the answers' tokens", optim=_FINETUNE),
    "durable": Recipe(
        "finetune",
        "the state is aged in training, so that prompts are written where they last; for memories that fade",
        perturbation=_DURABLE,
        optim=_FINETUNE,
    ),
    "durable-load": Recipe(
        "finetune",
        "the state is loaded with other text in training; for memories that fill up",
        perturbation=_DURABLE_LOAD,
        optim=_FINETUNE,
    ),
    # Prompts begin where other texts ended (arXiv 2507.02782), a tenth of them at the initial state, as later.
    "state-passing": Recipe(
        "finetune", "prompts begin where other texts ended", perturbation=_STATE_PASSING, optim=_FINETUNE
    ),
    "anchored": Recipe("finetune", "under an anchor", optim=_FINETUNE, anchor=Anchoring(enabled=True, tau=200.0)),
    "paper": Recipe(
        "synthesize",
        "the paper's module, trained as in the paper",
        module=PRESETS["paper"],
        optim=Optimisation(lr=1e-3, late_weight=1.0),
    ),
    "paper-perturbed": Recipe(
        "synthesize", "the paper's module, trained as plus is: a control", module=PRESETS["paper"], perturbation=_PLUS
    ),
    "plus": Recipe(
        "synthesize",
        "this package's module, which reads every token of the prompt; its state is perturbed in training",
        module=PRESETS["plus"],
        perturbation=_PLUS,
    ),
    "plus-transformers": Recipe(
        "synthesize",
        "the module of plus on a model that transformers runs, whose state can be wiped, not loaded",
        module=PRESETS["plus"],
        perturbation=_PLUS_ATTENTION,
    ),
    "plus-plain": Recipe("synthesize", "the module of plus, its state left alone: a control", module=PRESETS["plus"]),
    "static": Recipe("static", "one update for every prompt: a control", module=PRESETS["static"], optim=_STATIC),
    "static-durable": Recipe(
        "static",
        "the same, the state aged as in durable fine-tuning",
        module=PRESETS["static"],
        perturbation=_DURABLE,
        optim=_STATIC,
    ),
    "static-durable-load": Recipe(
        "static", "the same, the state loaded", module=PRESETS["static"], perturbation=_DURABLE_LOAD, optim=_STATIC
    ),
    # A few hundred numbers, logarithms all of them.
    "anchor": Recipe(
        "anchor", "windows and strengths of every unit", optim=Optimisation(lr=0.03), anchor=Anchoring(enabled=True)
    ),
    # A state has no fan-in and starts near zero, so its rate is large; see docs/state-tuning.md.
    "state": Recipe("state", "one initial state", optim=Optimisation(lr=0.1)),
}


USUAL: dict[Phase, str] = {
    "finetune": "plain",
    "synthesize": "plus",
    "static": "static",
    "anchor": "anchor",
    "state": "state",
}
"""The recipe of each phase by default."""
LORA = ("lora", "lora_alpha", "lora_modules")
SYNTHESIS = ("init", "cache_taps", "cache_taps_gb")
NOT_OF: dict[Phase, tuple[str, ...]] = {
    "finetune": ("module", *SYNTHESIS),
    "synthesize": LORA,
    "static": (*SYNTHESIS, *LORA),
    "state": ("module", *SYNTHESIS, *LORA),
    "anchor": ("module", *SYNTHESIS, *LORA),
}
"""Options of a training that a phase does not have."""


def recipe_values(phase: Phase, name: str) -> dict[str, Any]:
    """What a recipe sets, as nested dictionaries, without what its phase does not have."""
    groups = {group: dataclasses.asdict(getattr(RECIPES[name], group)) for group in _groups(phase)}
    return {"recipe": name, **groups}


def _groups(phase: Phase) -> list[str]:
    """The groups of options that the recipes of a phase set."""
    return [name for name in ("module", "perturbation", "optim", "anchor") if name not in NOT_OF[phase]]


def train_config(phase: Phase, **options: Any) -> TrainConfig:
    """Makes the options of a training: those of a recipe, and over them what is given.

    Args:
        phase: What is trained.
        options: Fields of `TrainConfig`, of which `model`, `train` and `out` have to be there. A group is a dictionary
            of those of its options that differ from the recipe's, like `optim={"steps": 500}`. `recipe` is by default
            the phase's own: plain, plus, static, anchor or state.

    Raises:
        ValueError: for an option that the phase does not have, a value out of range, and a recipe of another phase.

    Example:
        ```python
        config = prosg.train_config(
            "synthesize", model="tuned", train="train.jsonl", out="run", optim={"steps": 500}
        )
        prosg.train("synthesize", config)
        ```
    """
    check_known("phase", [phase], USUAL)
    recipe = options.get("recipe") or USUAL[phase]
    check_recipe(phase, recipe)
    given = parse(TrainConfig, {**options, "recipe": recipe}, without=NOT_OF[phase])
    if missing := [name for name in required_options(TrainConfig) if name not in given]:
        raise ValueError(f"{', '.join(missing)}: missing, and no recipe has it")
    return construct(TrainConfig, merge(recipe_values(phase, recipe), given))


def check_values(phase: Phase, config: TrainConfig) -> None:
    """Checks that a configuration was made with the recipe that it names: `TrainConfig` alone does not look it up.

    Raises:
        ValueError: where nothing of what sets the recipe apart is there, and for `init` in a phase without it, which
            only `TrainConfig` lets through.
    """
    if config.init and "init" in NOT_OF[phase]:
        allowed = ", ".join(one for one, without in NOT_OF.items() if "init" not in without)
        raise ValueError(f"init is {config.init!r}, must be empty for {phase}; it is for {allowed}")
    if not config.recipe:
        return
    has, wanted = ([getattr(one, name) for name in _groups(phase)] for one in (config, RECIPES[config.recipe]))
    if has == [type(group)() for group in has] != wanted:
        raise ValueError(
            f"recipe is {config.recipe!r}, but nothing of it is set; make the configuration with prosg.train_config"
        )


def check_recipe(phase: Phase, recipe: str) -> None:
    """Checks that a recipe belongs to a phase; "" stands for no recipe.

    Raises:
        ValueError: for an unknown recipe and for one of another phase.
    """
    allowed = [name for name, known in RECIPES.items() if known.phase == phase]
    if recipe and recipe not in allowed:
        raise ValueError(f"recipe is {recipe!r}{meant(recipe, allowed)}; for {phase} allowed: {', '.join(allowed)}")
