"""What a training prints, and what it says beforehand of options that do nothing."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest

from prosg.cli import main
from prosg.data.encode import EncodedRow
from prosg.model.config import PRESETS
from prosg.training.config import Anchoring, Optimisation, Perturbation, Phase, StopRule, TrainConfig
from prosg.training.display import step_line, validation_line
from prosg.training.idle_options import doubtful_sizes, idle_options
from prosg.training.recipes import RECIPES
from support.training_folder import TrainingFolder

CONFIG = TrainConfig("", ["x"], "never")
STEP = re.compile(r"step \d/8  loss \d+\.\d{3}  lr \d\.\de[-+]\d\d  [\d,]+ tokens/s(  [\d.]+ s left)?")


def test_a_run_that_is_redirected_prints_lines(
    folder: TrainingFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = folder.command("finetune", tmp_path / "run", "--validation", folder.validation)
    assert main([*command, "--log-steps", "2", "--eval-steps", "4"]) == 0
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == "" and lines[0].startswith("training ") and "8 steps of 8 rows" in lines[0]
    assert [line.partition("  ")[0] for line in lines if STEP.fullmatch(line)] == [f"step {n}/8" for n in (2, 4, 6, 8)]
    assert len([line for line in lines if "  validation: perplexity " in line]) == 2
    assert lines[-1].startswith(f"{tmp_path / 'run' / 'model'}: 8 steps")
    assert "{" not in err and "\r" not in err


def test_a_run_that_goes_on_says_from_where(
    folder: TrainingFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder.run("finetune", tmp_path / "run", "--log-steps", "1")
    (tmp_path / "run" / "result.json").unlink()
    for name in ("model", "checkpoint-8"):
        (tmp_path / "run" / name).rename(tmp_path / name)
    capfd.readouterr()
    folder.run("finetune", tmp_path / "run", "--log-steps", "1")
    lines = capfd.readouterr().err.splitlines()
    assert any(line.endswith("checkpoint-6: goes on from here, step 6") for line in lines)
    assert [line.partition("  ")[0] for line in lines if STEP.fullmatch(line)] == ["step 7/8", "step 8/8"]


def test_an_early_stop_says_why(folder: TrainingFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    patience = ("--stop.metric", "exact", "--stop.patience", 2, "--eval-steps", 1)
    folder.run("finetune", tmp_path / "run", "--validation", folder.validation, *patience)
    assert "step 3/8  stops here: no better exact in 2 evaluations" in capfd.readouterr().err


def test_lines_have_sensible_digits() -> None:
    line = step_line(20, 1000, {"loss": 2.34567, "learning_rate": 4e-3}, 5210.4, 431.0)
    assert line == "step   20/1000  loss 2.346  lr 4.0e-03  5,210 tokens/s  7 min left"
    worse = step_line(20, 1000, {"loss": math.nan, "learning_rate": 4e-3}, 5210.4, 431.0, skipped=2)
    assert worse == "step   20/1000  loss nan  lr 4.0e-03  5,210 tokens/s  7 min left  2 steps skipped"
    metrics = {"eval_perplexity": 1234.5678, "eval_exact": 0.0, "eval_late_perplexity": 1.04312, "eval_rows": 3.0}
    line = validation_line(1000, 1000, metrics)
    assert line == "step 1000/1000  validation: perplexity 1,235, exact 0.000, late perplexity 1.043"


IDLE = [
    ("finetune", {"optim": Optimisation(steps=30)}, "optim.warmup_steps is 50, the run has 30 steps"),
    ("finetune", {"optim": Optimisation(late_weight=5.0)}, "optim.late_weight is 5, but no row has stages"),
    ("finetune", {"replay": 0.5}, "replay is 0.5, but no row has stages"),
    ("finetune", {"module": dataclasses.replace(PRESETS["plus"], rank=2)}, "module.rank is 2, but finetune trains no"),
    (
        "static",
        {"module": dataclasses.replace(PRESETS["static"], blocks=3)},
        "module.blocks is 3, but module.reads is nothing",
    ),
    (
        "synthesize",
        {"module": dataclasses.replace(PRESETS["paper"], bottleneck=8)},
        "module.bottleneck is 8, but module.reads is last_input",
    ),
    ("finetune", {"anchor": Anchoring(tau=9.0)}, "anchor.tau is 9.0, but anchor.enabled is false"),
    ("finetune", {"perturbation": Perturbation(cut_steps=9.0)}, "perturbation.cut_steps is 9.0, but perturbation.cut"),
    ("finetune", {"perturbation": Perturbation(weakest=-1.0, swap=0.1)}, "perturbation.weakest is -1.0, but age, cut"),
    ("finetune", {"perturbation": Perturbation(bank_size=20)}, "perturbation.bank_size is 20, but load, load_story"),
    ("finetune", {"distil": "none"}, "distil is none, but finetune trains no module"),
    ("state", {"optim": Optimisation(scale_rates=False)}, "optim.scale_rates is false, but state has one rate for all"),
    ("synthesize", {"cache_taps_gb": 2.0}, "cache_taps_gb is 2, but cache_taps names no folder"),
    (
        "finetune",
        {"stop": StopRule(patience=3), "validation": "x", "eval_steps": 400},
        "stop.patience is 3, but the run has 2 evaluations",
    ),
    (
        "finetune",
        {"stop": StopRule(times=4), "validation": "x", "eval_steps": 400},
        "stop.times is 4, but the run has 3 evaluations",
    ),
    (
        "finetune",
        {"perturbation": Perturbation(swap=0.5), "optim": Optimisation(batch_size=4, accumulation=4)},
        "perturbation.swap is 0.5, but rows are read one at a time",
    ),
    ("synthesize", {"distil": "all"}, "distil is all, but no state is perturbed"),
    ("finetune", {"eval_steps": 7}, "eval_steps is 7, but there is no validation file"),
    ("finetune", {"stop": StopRule("exact")}, "stop.metric is exact, but stop.times and stop.patience are 0"),
    (
        "finetune",
        {"stop": StopRule(value=0.5, patience=2), "validation": "x"},
        "stop.value is 0.5, but stop.times is 0: it has no effect",
    ),
]


@pytest.mark.parametrize(("phase", "changes", "begins"), IDLE, ids=[begins.split()[0] for *_, begins in IDLE])
def test_an_option_without_effect_is_said(
    rows: list[EncodedRow], phase: Phase, changes: dict[str, object], begins: str
) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    lines = list(idle_options(phase, config, [row._replace(has_stages=False) for row in rows]))
    assert len(lines) == 1 and lines[0].startswith(begins)


def test_running_text_that_nothing_perturbs_teaches_nothing(rows: list[EncodedRow]) -> None:
    mixed = [rows[0]._replace(open=True), *rows[1:]]
    (line,) = idle_options("synthesize", CONFIG, mixed)
    assert line.startswith("distil is open, but no state is perturbed") and "running text" in line
    for changes in ({"distil": "none"}, {"perturbation": Perturbation(wipe_first=0.5)}):
        lines = idle_options("synthesize", dataclasses.replace(CONFIG, **changes), mixed)
        assert not any("perturbed" in line for line in lines)


def test_the_value_of_a_stop_rule_can_be_reached() -> None:
    for metric, value in (("perplexity", 0.99), ("late_exact", 97.0), ("exact", -0.5), ("late_perplexity", 0.0)):
        with pytest.raises(ValueError, match=rf"stop.value is {value}, must .* for {metric}"):
            StopRule(metric, value=value, times=1)  # type: ignore[arg-type]
    assert StopRule("perplexity", patience=2).value == 0.99 and StopRule("perplexity", value=3.0, times=1).falling


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_no_option_without_effect(rows: list[EncodedRow], name: str) -> None:
    recipe = RECIPES[name]
    values = {group: getattr(recipe, group) for group in ("module", "perturbation", "optim", "anchor")}
    for chosen in (name, ""):
        config = dataclasses.replace(CONFIG, recipe=chosen, **values)
        assert list(idle_options(recipe.phase, config, rows)) == []


def test_notes_come_before_the_first_step(
    folder: TrainingFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder.run("finetune", tmp_path / "run", "--optim.warmup-steps", 8)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("note: optim.warmup_steps is 8") and lines[1].startswith("training ")


def test_rows_that_are_too_few_for_what_is_wanted_are_said(rows: list[EncodedRow]) -> None:
    config = dataclasses.replace(CONFIG, optim=Optimisation(steps=10_000, batch_size=32))
    few, often = doubtful_sizes("synthesize", config, rows)
    assert few.startswith(f"{len({tuple(row.prompt) for row in rows})} distinct prompts: too few") and "320" in few
    assert often.startswith(f"every row is read {10_000 * 32 / len(rows):,.0f} times")
    assert list(doubtful_sizes("finetune", dataclasses.replace(CONFIG, optim=Optimisation(steps=3)), rows)) == []
