"""Trainings: one command per phase with hundreds of options, whose defaults a recipe sets; and the ablation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from prosg.cli.common import Parser, kinds_given
from prosg.model.config import ProSGConfig
from prosg.training.config import Optimisation, Perturbation, Phase, StopRule, TrainConfig
from prosg.training.recipes import RECIPES
from prosg.utils.options import read_yaml

__all__ = ["TRAINING", "add_ablation_options", "add_train_commands", "config_named"]


PHASES: dict[Phase, tuple[str, str]] = {
    "finetune": ("plain", "phase 1: the whole backbone, on the answers' tokens"),
    "synthesize": ("plus", "phase 2: the synthesis module, the backbone frozen"),
    "static": ("static", "the control: a low-rank adapter that reads no prompt"),
    "state": ("state", "state tuning: one learned initial state for every prompt, a .pth file for --state"),
}


WITH_MODULE = ("synthesize", "static")
"""Phases that train a synthesis module and so have its options."""


LORA = {"lora", "lora_alpha", "lora_modules"}
"""Options of finetune alone."""


GROUPS: dict[str, Any] = {
    "module": ProSGConfig,
    "perturbation": Perturbation,
    "optim": Optimisation,
    "stop": StopRule,
}
"""Options of a training that are groups of options."""


def config_named(arguments: Sequence[str]) -> list[str]:
    """`prosg ablate FILE` and `prosg train PHASE FILE` with the option spelled out: --config FILE."""
    named = list(arguments)
    place = {"ablate": 1, "train": 2}.get(named[0] if named else "", 0)
    if place and len(named) > place and not named[place].startswith("-"):
        named.insert(place, "--config")
    return named


def add_train_commands(parser: Parser, arguments: Sequence[str]) -> None:
    """Spell out the commands under `train`, with the defaults of the recipe that is named."""
    commands = parser.add_subcommands(dest="subcommand", required=True)
    for phase, (recipe, text) in PHASES.items():
        command = Parser(
            description=f"{text}. Recipes: {', '.join(n for n, r in RECIPES.items() if r.phase == phase)}."
        )
        _add_train_options(command, phase, recipe, arguments)
        command.add_argument(
            "--dry-run", action="store_true", help="say what would be trained, and in what time; write nothing"
        )
        commands.add_subcommand(phase, command, help=text)


def _add_train_options(command: Parser, phase: str, recipe: str, arguments: Sequence[str]) -> None:
    command.add_argument("--config", action="config", help="YAML with any of these options; also given as FILE alone")
    skip = set() if phase in WITH_MODULE else {"module"}
    command.add_class_arguments(TrainConfig, skip=skip if phase == "finetune" else skip | LORA)
    command.set_defaults(_recipe_defaults(phase, _chosen_recipe(arguments) or recipe))


def add_ablation_options(command: Parser, arguments: Sequence[str]) -> None:
    """Spell out the options of `ablate`: those of a training, and what to leave out."""
    _add_train_options(command, "synthesize", PHASES["synthesize"][0], arguments)
    from prosg.demo.ablation import PARTS

    command.add_argument(
        "--parts", type=str, nargs="+", help=f"what to leave out, one at a time: {', '.join(PARTS)}; all by default"
    )
    command.add_argument("--rows", type=int, default=64, help="prompts per cell of the curves")
    command.add_argument("--kinds", type=str, nargs="+", help="kinds of the curves' prompts; the demo's by default")
    command.add_argument("--sentences", type=int, nargs="+", help="lengths of the curves' stories")
    command.add_argument("--split", type=str, default="test", help="of the curves' prompts: train, validation or test")
    command.add_argument("--jobs", type=int, default=2, help="trainings and curves side by side")
    command.add_argument("--plain", action="store_true", help="lines instead of a live display")


def _chosen_recipe(arguments: Sequence[str]) -> str | None:
    """The recipe sets other options' defaults, so it has to be known before they are read.

    ValueError for a configuration file that cannot be read or has keys that do not exist: naming file and key.
    """
    chosen = None
    for path in _values("--config", arguments):
        content = _read_config(path)
        if isinstance(content.get("recipe"), str):
            chosen = content["recipe"]
    return next(reversed(_values("--recipe", arguments)), chosen)


def _values(option: str, arguments: Sequence[str]) -> list[str]:
    """What an option is given on the command line, as `--option VALUE` or `--option=VALUE`."""
    apart = [value for name, value in itertools.pairwise(arguments) if name == option]
    return apart + [value for name, equals, value in (a.partition("=") for a in arguments) if equals and name == option]


def _read_config(path: str) -> dict[str, Any]:
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; needs options and their values")
    for wrong, known in _unknown(TrainConfig, content):
        raise ValueError(f"{path}: unknown key {wrong}; known are {', '.join(known)}")
    return content


def _unknown(kind: Any, content: Mapping[Any, Any], inside: str = "") -> Iterator[tuple[str, list[str]]]:
    """Keys that are no option of a dataclass, and what is."""
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in content.items():
        name, _, rest = str(key).partition(".")
        if name not in known:
            yield f"{inside}{key}", known
        elif name in GROUPS and (rest or isinstance(value, Mapping)):
            yield from _unknown(GROUPS[name], {rest: None} if rest else value, f"{name}.")


def _recipe_defaults(phase: str, name: str) -> dict[str, Any]:
    recipe = RECIPES.get(name)
    if recipe is None or recipe.phase != phase:
        return {"recipe": name}  # refused when the command runs, with the names that are allowed
    defaults: dict[str, Any] = {"recipe": name}
    groups: dict[str, Any] = {"perturbation": recipe.perturbation, "optim": recipe.optim}
    if phase in WITH_MODULE:
        groups["module"] = recipe.module
    return defaults | {group: dataclasses.asdict(values) for group, values in groups.items()}


def _run_train(phase: Phase) -> Callable[[Namespace], int]:
    def run(options: Namespace) -> int:
        from prosg.training.run import train

        return train(phase, _train_config(options), dry_run=options.dry_run)

    return run


def _train_config(options: Namespace) -> TrainConfig:
    values = {field.name: options[field.name] for field in dataclasses.fields(TrainConfig) if field.name in options}
    for name, kind in ((name, kind) for name, kind in GROUPS.items() if name in values):
        values[name] = kind(**values[name].as_dict()) if isinstance(values[name], Namespace) else values[name]
    return TrainConfig(**values)


def _run_ablate(options: Namespace) -> int:
    from prosg.demo.ablation import ablate
    from prosg.evaluation.config import CurveConfig

    return ablate(
        _train_config(options),
        parts=kinds_given(options.parts),
        curve={"rows": options.rows, "sentences": options.sentences or CurveConfig().sentences},
        kinds=kinds_given(options.kinds),
        split=options.split,
        jobs=options.jobs,
        live=not options.plain,
    )


TRAINING: dict[str, Callable[[Any], int]] = {
    **{f"train {phase}": _run_train(phase) for phase in PHASES},
    "ablate": _run_ablate,
}
"""By the names of command and subcommand."""
