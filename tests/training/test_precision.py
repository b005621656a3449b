"""bf16 by autocast, and the probe that chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import prosg.training.precision
from prosg.checkpoints.backbone import load_backbone
from prosg.model.prosg import ProSG
from prosg.training.precision import probe_dtype, resolve_dtype
from support.training_folder import TrainingFolder, losses


def test_bf16_is_autocast_over_fp32_weights(whole_run: Callable[..., Path]) -> None:
    bf16, fp32 = whole_run("finetune", "--dtype", "bf16"), whole_run("finetune")
    assert {t.dtype for t in load_file(bf16 / "model" / "model.safetensors").values()} == {torch.float32}
    assert losses(bf16) != losses(fp32)
    assert losses(bf16) == pytest.approx(losses(fp32), rel=1e-2)


@pytest.mark.parametrize("dtype", ["auto", "fp32"])
def test_the_probed_type_is_kept_for_a_run(
    folder: TrainingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    model = ProSG(load_backbone(folder.model))
    first = {"auto": "bf16", "fp32": "fp32"}[dtype]
    monkeypatch.setattr(prosg.training.precision, "probe_dtype", lambda _: "bf16")
    assert resolve_dtype(dtype, tmp_path, model) == first
    monkeypatch.setattr(prosg.training.precision, "probe_dtype", lambda _: "fp32")
    assert resolve_dtype("auto", tmp_path, model) == first


def test_the_probe_leaves_a_backbone_as_it_was(folder: TrainingFolder) -> None:
    backbone = load_backbone(folder.model)
    backbone.head.requires_grad_(False)
    assert probe_dtype(backbone, rows=1, seconds=0.0) in ("bf16", "fp32")
    assert all(p.grad is None and p.requires_grad == ("head" not in name) for name, p in backbone.named_parameters())
