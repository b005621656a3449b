"""What is refused before a training begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.backbones.rwkv4 import RWKV4
from prosg.checkpoints.backbone import load_backbone
from prosg.cli import main
from prosg.data.encode import EncodedRow
from prosg.model.config import ProSGConfig
from prosg.model.initial_state import InitialState
from prosg.model.prosg import ProSG
from prosg.training.config import Optimisation, Phase, StopRule, TrainConfig
from prosg.training.setup import check
from support.training_folder import TrainingFolder

CONFIG = TrainConfig("", ["x"], "never")


@pytest.fixture
def backbone(folder: TrainingFolder) -> RWKV4:
    return load_backbone(folder.model)


@pytest.mark.parametrize(
    ("phase", "module", "initial", "missing"),
    [
        ("finetune", "plus", False, "without a module"),
        ("synthesize", None, False, "with a module"),
        ("state", None, False, "with an initial state"),
        ("finetune", None, True, "without an initial state"),
        ("static", "plus", False, "module.reads"),
    ],
)
def test_a_phase_that_does_not_fit_the_model(
    backbone: RWKV4, rows: list[EncodedRow], phase: Phase, module: str | None, initial: bool, missing: str
) -> None:
    model = ProSG(backbone, module and ProSGConfig.from_preset(module))
    if initial:
        model.initial = InitialState(backbone)
    with pytest.raises(ValueError, match=missing) as error:
        check(model, phase, CONFIG, rows, [])
    assert phase in str(error.value)


@pytest.mark.parametrize(
    ("count", "config", "message"),
    [
        (0, CONFIG, "no rows"),
        (1, TrainConfig("", ["x"], "never", optim=Optimisation(batch_size=8, accumulation=2)), "1 rows.*at least 2"),
        (8, TrainConfig("", ["x"], "never", stop=StopRule(times=1), validation=["y"]), "no rows to validate on"),
    ],
)
def test_rows_that_do_not_suffice(
    backbone: RWKV4, rows: list[EncodedRow], count: int, config: TrainConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check(ProSG(backbone), "finetune", config, rows[:count], [])


def test_validation_rows_that_the_stop_rule_cannot_judge(backbone: RWKV4, rows: list[EncodedRow]) -> None:
    config = TrainConfig("", ["x"], "never", stop=StopRule(times=1), validation=["y"])
    with pytest.raises(ValueError, match=r"stop.metric.*stages"):
        check(ProSG(backbone), "finetune", config, rows, [rows[0]._replace(has_stages=False)])


def test_phase_anchor_without_an_anchor(backbone: RWKV4, rows: list[EncodedRow]) -> None:
    with pytest.raises(ValueError, match=r"anchor.enabled is false"):
        check(ProSG(backbone), "anchor", CONFIG, rows, [])


@pytest.mark.parametrize(
    ("name", "words"), [("paper", ("'paper'", "allowed: none,", "wandb")), ("wandb", ("'wandb'", "not installed"))]
)
def test_a_logger_that_is_not_installed(
    folder: TrainingFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    name: str, words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr("prosg.training.setup.get_available_reporting_integrations", lambda: ["tensorboard"])
    assert main(folder.command("finetune", tmp_path / "run", "--report_to", f"[tensorboard, {name}]")) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not (tmp_path / "run").exists()
