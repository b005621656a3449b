"""`prosg train`: recipes, files and options put together, and what is refused before a step is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prosg.cli import main
from prosg.training.recipes import RECIPES
from support.commands import case, status
from support.training_folder import TrainingFolder

TRAIN = "train finetune --model start --train train.jsonl --out made"
MODULE = "train synthesize --model start --train train.jsonl --out made"
STATE = "train state --model start --train train.jsonl --out made"

BAD = [
    case(f"{TRAIN} --config unknown.yaml", "unknown.yaml", "optim.stepz", "steps, batch_size"),
    case("train finetune unknown.yaml", "unknown.yaml", "optim.stepz"),
    case(f"{TRAIN} --config dotted.yaml", "dotted.yaml", "optim.stepz"),
    case(f"{TRAIN} --config top.yaml", "top.yaml", "recipees", "model"),
    case(f"{TRAIN} --config word.yaml", "word.yaml", "optim.steps", "many", "int"),
    case(f"{TRAIN} --config twice.yaml", "twice.yaml:2", "seed"),
    case(f"{TRAIN} --config module.yaml", "module.yaml", "module"),
    case(f"{TRAIN} --config broken.yaml", "broken.yaml", "not YAML"),
    case(f"{TRAIN} --config list.yaml", "list.yaml", "list"),
    case(f"{TRAIN} --config nowhere.yaml", "nowhere.yaml", "No such file"),
    case(f"{TRAIN} --optim.stepz 3", "--optim.stepz"),
    case(f"{TRAIN} --optim.step 3", "--optim.step"),
    case(f"{TRAIN} --optim.steps many", "--optim.steps", "many", "int"),
    case(f"{TRAIN} --optim.steps 0", "optim.steps is 0"),
    case(f"{TRAIN} --optim.accumulation 3", "batch_size 32", "accumulation 3"),
    case(f"{TRAIN} --optim.lr 0", "optim.lr"),
    case(f"{TRAIN} --optim.beta1 1", "optim.beta1"),
    case(f"{TRAIN} --optim.clip -1", "optim.clip"),
    case(f"{TRAIN} --recipe plus", "'plus'", "plain, durable"),
    case(f"{TRAIN} --recipe nonsense", "'nonsense'", "plain, durable"),
    case(f"{MODULE} --recipe plain", "'plain'", "paper, paper-perturbed, plus"),
    case(f"{TRAIN} --dtype fp8", "--dtype", "fp8", "bf16"),
    case(f"{TRAIN} --device tpu", "--device", "tpu", "cuda"),
    case(f"{TRAIN} --progress maybe", "--progress", "maybe", "true or false"),
    case(f"{TRAIN} --save_steps 0", "--save-steps is 0"),
    case(f"{TRAIN} --threads -1", "threads is -1"),
    case(f"{TRAIN} --seed -1", "seed is -1"),
    case(f"{TRAIN} --replay 2", "replay is 2.0"),
    case(f"{TRAIN} --stop.times 1", "--validation"),
    case(f"{TRAIN} --stop.metric nonsense", "--stop.metric", "late_exact"),
    case(f"{TRAIN} --stop.times 1 --validation rows.jsonl", "late_exact", "stages"),
    case(f"{TRAIN} --train bad.jsonl", "bad.jsonl:2", "not JSON"),
    case(f"{TRAIN} --train rows.jsonl bad.jsonl", "bad.jsonl:2", "not JSON"),
    case(f"{TRAIN} --train blank.jsonl", "blank.jsonl:2", "prompt"),
    case(f"{TRAIN} --train order.jsonl", "order.jsonl:2", "message 2", "allowed"),
    case(f"{TRAIN} --train chat.jsonl", "chat.jsonl", "--template world, pile, raven"),
    case(f"{TRAIN} --template vicuna", "'vicuna'", "none, world, pile, raven"),
    case(f"{TRAIN} --truncate true", "truncate", "max_tokens", "2"),
    case(f"{TRAIN} --train none.jsonl", "none.jsonl", "no rows"),
    case(f"{TRAIN} --train nowhere.jsonl", "nowhere.jsonl", "No such file"),
    case(f"{TRAIN} --model nowhere", "nowhere", "no such file"),
    case(f"{TRAIN} --model alone/x.pth", "--tokenizer"),
    case(f"{TRAIN} --model plus", "adapter"),
    case(f"{TRAIN} --out train.jsonl", "train.jsonl", "--out"),
    case(f"{TRAIN} --out train.jsonl --dry-run", "train.jsonl", "--out"),
    case(f"{TRAIN} --out start", "start", "no run's", "another --out"),
    case(f"{TRAIN} --out start --dry-run", "start", "no run's", "another --out"),
    case(f"{TRAIN} --module.rank 2", "--module.rank"),
    case(f"{MODULE} --lora 2", "--lora"),
    case(f"{MODULE} --module.rank 0", "module.rank is 0"),
    case(f"{MODULE} --module.reads nonsense", "--module.reads", "all_positions"),
    case(f"{MODULE} --module.target_modules [gate]", "gate", "receptance"),
    case(f"{MODULE} --perturbation.load 2", "perturbation.load is 2.0"),
    case(f"{STATE} --recipe static", "'static'", "state"),
    case(f"{STATE} --module.rank 2", "--module.rank"),
    case("train finetune --model start", "required", "--train", "--out"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


def test_another_configuration_in_the_same_folder(shop: TrainingFolder, refused: Callable[..., None]) -> None:
    command = shop.command("synthesize", shop.folder / "run", "--optim.steps", 2, "--optim.lr", 0.1)
    assert main(command) == 0  # the same: nothing to do
    assert main([*command, "--log_steps", "7"]) == 0  # changes nothing of the result
    refused([*command, "--optim.steps", "3"], "optim", "--out")


def test_a_folder_of_an_earlier_version(shop: TrainingFolder, tmp_path: Path) -> None:
    """Options that were renamed since are the same options."""
    command = shop.command("synthesize", tmp_path / "run", "--optim.steps", 1)
    assert main(command) == 0
    config = tmp_path / "run" / "config.json"
    stored = json.loads(config.read_text())
    stored["output"] = stored.pop("out")
    del stored["module"]["reads"]
    stored["module"] |= {"preset": "plus", "reading": "attention", "positions": "all"}
    config.write_text(json.dumps(stored))
    assert main(command) == 0
    assert status([*command, "--module.rank", "2"]) == 2


def test_a_refused_command_may_be_corrected(shop: TrainingFolder, here: Path, tmp_path: Path) -> None:
    """Nothing that was refused stands in its way."""
    once = ("--optim.steps", 1)
    assert status(shop.command("finetune", tmp_path / "run", *once, "--train", "bad.jsonl")) == 2
    assert status(shop.command("finetune", tmp_path / "run", *once)) == 0


def test_help_has_every_option_and_what_recipes_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["train", "synthesize", "--help-all"]) == 0
    out = capsys.readouterr().out
    for option in ("--config", "--module.rank", "--perturbation.load-story", "--optim.skip-above", "--stop.patience"):
        assert option in out
    assert "Rank of the update" in out and "0.004" in out and "0.001" in out


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, here: Path) -> Callable[..., Any]:
    """The configuration that a command would train with."""
    configs: list[Any] = []
    monkeypatch.setattr("prosg.training.run.train", lambda _, config, dry_run: configs.append(config) or 0)

    def run(phase: str, *options: object) -> Any:
        assert main(["train", phase, *map(str, options)]) == 0
        return configs.pop()

    return run


FILES = ("--model", "start", "--train", "train.jsonl", "--out", "made")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_the_defaults(configured: Callable[..., Any], name: str) -> None:
    recipe = RECIPES[name]
    config = configured(recipe.phase, *FILES, "--recipe", name)
    assert (config.optim, config.perturbation) == (recipe.optim, recipe.perturbation)
    assert config.module == recipe.module


def test_the_command_line_goes_over_files_and_files_over_the_recipe(
    configured: Callable[..., Any], tmp_path: Path
) -> None:
    first, second = tmp_path / "run.yaml", tmp_path / "more.yaml"
    first.write_text(
        "model: start\ntrain: [train.jsonl]\nrecipe: paper\noutput: made\n"
        "module:\n  rank: 3\noptim:\n  steps: 2\n  batch_size: 4\n  lr: 5e-1\nperturbation:\n  swap: 0.25\n"
    )
    second.write_text("optim.steps: 7\n")
    config = configured("synthesize", "--optim.lr", 0.001, first, "--config", second)
    assert config.module.reads == "last_input"  # of the recipe
    assert config.module.rank == 3 and config.optim.batch_size == 4  # of the first file
    assert config.optim.steps == 7  # of the second
    assert config.perturbation.swap == 0.25
    assert config.optim.lr == 0.001  # of the command line, wherever it stands
    assert (config.optim.late_weight, config.train, config.out) == (1.0, ["train.jsonl"], "made")


def test_a_recipe_on_the_command_line_goes_over_the_files(configured: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("recipe: paper\n")
    config = configured("synthesize", *FILES, "--config", file, "--recipe=plus")
    assert config.module == RECIPES["plus"].module and config.optim == RECIPES["plus"].optim


@pytest.mark.parametrize("values", [["a.jsonl", "b.jsonl"], ["a.jsonl,b.jsonl"], ["[a.jsonl, b.jsonl]"]], ids=str)
def test_several_values(configured: Callable[..., Any], values: list[str]) -> None:
    config = configured(
        "synthesize", *FILES, "--train", *values, "--report_to", *values, "--module.target-modules", *values
    )
    names = ["a.jsonl", "b.jsonl"]
    assert config.train == config.report_to == names and len(config.module.target_modules) == 2
    assert configured("finetune", *FILES, "--train", "a.jsonl").train == "a.jsonl"
    assert configured("finetune", *FILES, "--train", "[a.jsonl]").train == ["a.jsonl"]


@pytest.mark.parametrize("name", ["--output", "--out"])
def test_the_older_name_of_out(configured: Callable[..., Any], name: str) -> None:
    assert configured("finetune", *FILES[:4], name, "there", "--progress", "false").out == "there"
