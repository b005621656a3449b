"""`prosg train`: one command for each phase; a recipe sets the defaults, files and the command line go over it."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosg.cli.help_format import value_text
from prosg.cli.parser import Command, Group, Parser, add_dataclass, packaged_config, path_text
from prosg.utils.options import dotted, iter_options, merge, parse, read_options, required_options, summary

if TYPE_CHECKING:
    from prosg.training.config import Phase, TrainConfig

__all__ = ["COMMANDS", "EXAMPLE", "training_config", "training_parser"]

PHASES: dict[Phase, str] = {
    "finetune": "phase 1: the whole backbone, on the answers' tokens",
    "synthesize": "phase 2: the synthesis module, the backbone frozen",
    "static": "the control: a low-rank adapter that reads no prompt",
    "anchor": "windows and strengths of an anchor, a file for --anchor; the backbone frozen",
    "state": "state tuning: one learned initial state for every prompt, a .pth file for --state",
}
"""What is trained -> a line of help."""
FIRST = {
    "needed": ("--model", "--train", "--out"),
    "often set": (
        "--validation",
        "--recipe",
        "--template",
        "--max-tokens",
        "--optim.steps",
        "--optim.batch-size",
        "--optim.lr",
        "--device",
        "--seed",
    ),
    "configuration files": ("file", "--example"),
    "help": ("--help", "--help-all"),
}
"""What --help shows, by heading; --help-all has the rest."""
RENAMED = {"output": "out"}
"""Older name of an option -> its name."""
EXAMPLE = "train.yaml"
PACKAGED: dict[Phase, str] = {"finetune": "paper-0.4b-phase1", "synthesize": "paper-0.4b"}
"""Phase -> the configuration that comes with the package, which is named in place of a file."""


def training_parser(phase: Phase, description: str) -> Parser:
    """Makes a parser of a training's options. Only those that are given are set; `training_config` has the rest.

    Args:
        phase: What is trained.
        description: For the help.
    """
    from prosg.training.config import TrainConfig
    from prosg.training.recipes import NOT_OF, RECIPES, USUAL, recipe_values

    recipe, recipes = USUAL[phase], _recipes(phase)
    parser = Parser(
        f"{description} An option goes over the configuration files, a later file over an earlier one, and files over "
        f"the recipe. Defaults are those of the recipe {recipe}.",
        renamed={f"--{old}": f"--{name}" for old, name in RENAMED.items()},
        usage="%(prog)s [FILE] [options]",
    )
    packaged = PACKAGED.get(phase, "")
    named = f", or {packaged}, which comes with the package" if packaged else ""
    text = f"YAML with any of these options{named}; like --config FILE"
    parser.add_argument("file", nargs="?", metavar="FILE", type=path_text, help=text)
    text = "as FILE; may be repeated"
    parser.add_argument("--config", action="append", default=[], metavar="FILE", type=path_text, help=text)
    parser.add_example(EXAMPLE, *([f"{packaged}.yaml"] if packaged else []))
    usual = dict(dotted(recipe_values(phase, recipe)))
    add_dataclass(parser, TrainConfig, usual, NOT_OF[phase], {"recipe": [*recipes]})
    about = {name: RECIPES[name].about for name in recipes}
    parser.add_section("recipes (--recipe): defaults that belong together", about, whole=False)
    parser.add_section("recipes (--recipe), and where they differ", recipes, whole=True)
    groups = {**_groups(phase), "others": "checkpoints, evaluations, special tokens, logs, processors"}
    parser.add_section("further options, with --help-all", groups, whole=False)
    return parser


def _groups(phase: Phase) -> dict[str, str]:
    """What each group of a phase's options is about, by what stands before their names."""
    from prosg.training.config import TrainConfig
    from prosg.training.recipes import NOT_OF

    groups = {options[0].name.rpartition(".")[0]: summary(kind) for kind, options in iter_options(TrainConfig)}
    return {f"--{name}.*": text for name, text in groups.items() if name and name not in NOT_OF[phase]}


def training_config(phase: Phase, options: Namespace, command: str = "") -> TrainConfig:
    """Puts a training's options together: recipe, files, command line. `command` has them; by default the phase's.

    Raises:
        ValueError: for what a file gets wrong, a recipe of another phase, missing options and values out of range.
    """
    from prosg.training.config import TrainConfig
    from prosg.training.recipes import NOT_OF, train_config

    command = command or f"train {phase}"
    files = ([options.file] if options.file is not None else []) + options.config
    given: dict[str, Any] = {}
    for file in files:
        if file == PACKAGED.get(phase) and not Path(file).exists():
            file = packaged_config(f"{file}.yaml")
        given = merge(given, read_options(TrainConfig, file, without=NOT_OF[phase], renamed=RENAMED))
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    command_line = {name: value for name, value in vars(options).items() if name.partition(".")[0] in known}
    given = merge(given, parse(TrainConfig, command_line))
    if missing := [f"--{name}" for name in required_options(TrainConfig) if name not in given]:
        raise ValueError(
            f"prosg {command}: the following options are required: {', '.join(missing)}; give them here or in FILE "
            f"(see prosg {command} --help)"
        )
    return train_config(phase, **given)


def _recipes(phase: Phase) -> dict[str, str]:
    """Each recipe of a phase, the default first, with what it has that the default has not."""
    from prosg.training.recipes import RECIPES, USUAL, recipe_values

    usual = USUAL[phase]
    first = dict(dotted(recipe_values(phase, usual)))
    recipes = {usual: "the default"}
    for name, recipe in RECIPES.items():
        if recipe.phase == phase and name != usual:
            values = dotted(recipe_values(phase, name))
            changes = [f"{key} {value_text(value)}" for key, value in values if key != "recipe" and value != first[key]]
            recipes[name] = ", ".join(changes)
    return recipes


def _command(phase: Phase, text: str) -> Command:
    def parser() -> Parser:
        parser = training_parser(phase, f"{text[0].upper()}{text[1:]}.")
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be trained, and in what time; write nothing"
        )
        parser.show_first({**FIRST, "often set": (*FIRST["often set"], "--dry-run")})
        return parser

    def run(options: Namespace) -> int:
        from prosg.training.run import train

        return train(phase, training_config(phase, options), dry_run=options.dry_run)

    return Command(text, parser, run, resumes=True)


COMMANDS = Group(
    "fine-tune a backbone, or train a module on it",
    "Training. Killed and started again, a run goes on from its newest checkpoint.",
    {phase: _command(phase, text) for phase, text in PHASES.items()},
    (EXAMPLE, *(f"{name}.yaml" for name in PACKAGED.values())),
)
