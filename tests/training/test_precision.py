"""bf16 by autocast, and the probe that chooses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import prosg.training.precision
from prosg.cli import main
from support.kills import between_steps, run_killed
from support.training_folder import TrainingFolder, losses


def test_bf16_is_autocast_over_fp32_weights(whole_run: Callable[..., Path]) -> None:
    bf16, fp32 = whole_run("finetune", "--dtype", "bf16"), whole_run("finetune")
    assert {t.dtype for t in load_file(bf16 / "model" / "model.safetensors").values()} == {torch.float32}
    assert losses(bf16) != losses(fp32)
    assert losses(bf16) == pytest.approx(losses(fp32), rel=1e-2)


def test_a_resumed_run_keeps_the_probed_type(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prosg.training.precision, "probe_dtype", lambda _: "bf16")
    command = folder.command("finetune", tmp_path / "run", "--dtype", "auto")
    run_killed(command, between_steps())
    monkeypatch.setattr(prosg.training.precision, "probe_dtype", lambda _: "fp32")
    assert main(command) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["dtype"] == "bf16"
