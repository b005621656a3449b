"""prosg train ... --dry-run, and where a training reports to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prosg.cli import main
from support.training_folder import Workshop, make_workshop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("workshop"))


def said(capsys: pytest.CaptureFixture[str], command: list[str]) -> dict[str, str]:
    assert main([*command, "--dry-run"]) == 0
    return dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())  # type: ignore[misc]


def test_it_counts_measures_and_writes_nothing(
    shop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = shop.command("synthesize", tmp_path / "run", "--max_tokens", 90, "--optim.steps", 3, "--eval_steps", 7)
    told = said(capsys, [*command, "--validation", str(shop.validation), "--optim.accumulation", "2"])
    assert list(told) == ["model", "trains", "rows", "tokens", "validation", "steps", "memory", "time"]
    assert "module plus" in told["trains"] and "recipe plus" in told["trains"]
    kept, left_out = (int(word) for word in told["rows"].replace("; ", " ").split() if word.isdigit() and word != "90")
    assert kept + left_out == 40 and left_out > 0
    assert told["validation"].endswith(" rows, every 7 steps")
    assert told["steps"].startswith("3 of 8 rows in 2 parts: ")
    assert "of 3 taken" in told["time"] and " in fp32" in told["time"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("phase", "options", "what"),
    [
        ("finetune", (), "backbone, "),
        ("finetune", ("--lora", 2), "LoRA of rank 2, "),
        ("static", (), "module static, "),
        ("state", (), "initial state, "),
    ],
)
def test_every_phase_can_be_asked(
    shop: Workshop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    phase: str,
    options: tuple[object, ...],
    what: str,
) -> None:
    told = said(capsys, shop.command(phase, tmp_path / "run", *options, "--optim.steps", 2))
    assert told["trains"].startswith(what)
    assert os.listdir(tmp_path) == []


def test_it_says_where_a_run_goes_on(shop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.run("finetune", tmp_path / "run", "--optim.steps", 2)
    before = sorted(str(path) for path in (tmp_path / "run").rglob("*"))
    capsys.readouterr()
    told = said(capsys, shop.command("finetune", tmp_path / "run", "--optim.steps", 2))
    assert told["goes"].endswith("checkpoint-2")
    assert sorted(str(path) for path in (tmp_path / "run").rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "words"), [("paper", ("'paper'", "allowed: none,", "wandb")), ("wandb", ("'wandb'", "not installed"))]
)
def test_a_logger_that_is_not_there_is_refused(
    shop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    name: str, words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr("prosg.training.setup.get_available_reporting_integrations", lambda: ["tensorboard"])
    assert main(shop.command("finetune", tmp_path / "run", "--report_to", f"[tensorboard, {name}]")) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not (tmp_path / "run").exists()


def test_nothing_is_reported_where_none_is_asked(shop: Workshop, tmp_path: Path) -> None:
    shop.run("finetune", tmp_path / "run", "--report_to", "none", "--optim.steps", 1)
    assert not list((tmp_path / "run").rglob("events.out.tfevents.*"))
