"""prosg train ... --dry-run, and trainings that report nowhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prosg.cli import main
from support.training_folder import TrainingFolder


def dry_run(capsys: pytest.CaptureFixture[str], command: list[str]) -> dict[str, str]:
    assert main([*command, "--dry-run"]) == 0
    return dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())  # type: ignore[misc]


def test_a_dry_run_counts_measures_and_writes_nothing(
    folder: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = folder.command("synthesize", tmp_path / "run", "--max_tokens", 90, "--optim.steps", 3, "--eval_steps", 7)
    table = dry_run(capsys, [*command, "--validation", str(folder.validation), "--optim.accumulation", "2"])
    assert list(table) == ["model", "trains", "rows", "template", "tokens", "validation", "steps", "memory", "time"]
    assert "module plus" in table["trains"] and "recipe plus" in table["trains"]
    kept, left_out = (int(word) for word in table["rows"].replace("; ", " ").split() if word.isdigit() and word != "90")
    assert kept + left_out == 40 and left_out > 0
    assert table["validation"].endswith(" rows, every 7 steps")
    assert table["steps"].startswith("3, each of 8 rows in 2 parts: ")
    assert "of 3 taken" in table["time"] and " in fp32" in table["time"]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_in_bf16_takes_the_steps_that_training_takes(
    folder: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert " in bf16" in dry_run(capsys, folder.command("synthesize", tmp_path / "run", "--dtype", "bf16"))["time"]


def test_a_dry_run_of_a_run_that_is_there_says_what_training_would(
    folder: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = folder.command("state", tmp_path / "run")
    assert main(command) == 0
    assert main([*command, "--dry-run"]) == 0
    assert "already trained" in capsys.readouterr().err
    assert main([*command, "--dry-run", "--optim.lr", "0.3"]) == 2
    assert "--optim.lr was 0.003, is 0.3 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("phase", "options", "what"),
    [
        ("finetune", (), "backbone, "),
        ("finetune", ("--lora", 2), "LoRA of rank 2, "),
        ("static", (), "module static, "),
        ("state", (), "initial state, "),
    ],
)
def test_every_phase_has_a_dry_run(
    folder: TrainingFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    phase: str,
    options: tuple[object, ...],
    what: str,
) -> None:
    table = dry_run(capsys, folder.command(phase, tmp_path / "run", *options, "--optim.steps", 2))
    assert table["trains"].startswith(what)
    assert os.listdir(tmp_path) == []


def test_a_run_that_resumes_names_its_checkpoint(
    folder: TrainingFolder, whole_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(whole_run("finetune"), tmp_path / "run")
    (out / "result.json").unlink()
    before = sorted(str(path) for path in out.rglob("*"))
    capsys.readouterr()
    assert dry_run(capsys, folder.command("finetune", out))["goes"].endswith("checkpoint-8")
    assert sorted(str(path) for path in out.rglob("*")) == before


def test_report_to_none_writes_no_log(folder: TrainingFolder, tmp_path: Path) -> None:
    folder.run("finetune", tmp_path / "run", "--report_to", "none", "--optim.steps", 1)
    assert not list((tmp_path / "run").rglob("events.out.tfevents.*"))
