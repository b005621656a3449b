"""Early stopping."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prosg.training.callbacks import EarlyStopping
from prosg.training.config import StopRule
from support.training_folder import TrainingFolder

HISTORIES = [
    pytest.param(StopRule("exact", 0.9, times=2), [0.95, 0.5, 0.95, 0.91], True, True, id="twice in a row"),
    pytest.param(StopRule("exact", 0.9, times=2), [0.95, 0.5, 0.95], False, False, id="not twice in a row"),
    pytest.param(StopRule("perplexity", 2.0, times=1), [3.0, 1.9], True, True, id="less is better"),
    pytest.param(StopRule("exact", patience=2), [0.5, 0.4, 0.5], True, False, id="nothing better for two"),
    pytest.param(StopRule("perplexity", patience=2), [5.0, 4.0, 3.0], False, False, id="still better"),
    pytest.param(StopRule(), [1.0, 1.0, 1.0], False, False, id="no rule"),
]


@pytest.mark.parametrize(("rule", "values", "ended", "reached"), HISTORIES)
def test_stop_rules(rule: StopRule, values: list[float], ended: bool, reached: bool) -> None:
    history = [{"loss": 1.0}, *({f"eval_{rule.metric}": value} for value in values)]
    stopping = EarlyStopping(rule)
    assert stopping.has_ended(history) is ended
    assert stopping.has_reached(history) is reached


def test_patience_ends_a_run(folder: TrainingFolder, tmp_path: Path) -> None:
    patience = ("--stop.metric", "exact", "--stop.patience", 2, "--eval_steps", 1)
    folder.run("finetune", tmp_path / "run", "--validation", folder.validation, *patience)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 3 and result["reached"] is None
