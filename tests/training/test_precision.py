"""bf16 by autocast, and the probe that chooses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import prosg.training.precision
from prosg.checkpoints.backbone import load_backbone
from prosg.model.prosg import ProSG
from prosg.training.precision import narrowed, probe_dtype, resolve_dtype
from support.models import live_model
from support.training_folder import TrainingFolder, losses
from support.two_passes import batch


def test_bf16_is_autocast_over_fp32_weights(whole_run: Callable[..., Path]) -> None:
    bf16, fp32 = whole_run("finetune", "--dtype", "bf16"), whole_run("finetune")
    assert {t.dtype for t in load_file(bf16 / "model" / "model.safetensors").values()} == {torch.float32}
    assert losses(bf16) != losses(fp32)
    assert losses(bf16) == pytest.approx(losses(fp32), rel=1e-2)


@pytest.mark.parametrize("phase", ["synthesize", "static", "state"])
def test_a_frozen_backbone_trains_and_is_evaluated_in_bf16(
    phase: str, folder: TrainingFolder, whole_run: Callable[..., Path]
) -> None:
    evaluated = ("--validation", folder.validation, "--eval-steps", 4)
    bf16, fp32 = whole_run(phase, *evaluated, "--dtype", "bf16"), whole_run(phase, *evaluated)
    assert losses(bf16) != losses(fp32)
    assert losses(bf16) == pytest.approx(losses(fp32), rel=3e-2)
    scores = [json.loads((run / "result.json").read_text())["metrics"] for run in (bf16, fp32)]
    assert scores[0]["eval_perplexity"] == pytest.approx(scores[1]["eval_perplexity"], rel=3e-2)


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


def bf16_loss(model: ProSG, dtype: str) -> tuple[Tensor, list[Tensor]]:
    """A step's loss, and the gradients of the module."""
    with narrowed(model.backbone, dtype), torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch()).loss
    return loss.detach(), list(torch.autograd.grad(loss, model.synthesizer.parameters(), allow_unused=True))


def test_frozen_matrices_that_are_cast_once_change_no_bit() -> None:
    model = live_model("rwkv7", "plus", torch.float32)
    model.backbone.requires_grad_(False)
    with torch.no_grad():
        model.backbone.head.weight.copy_(model.backbone.head.weight.bfloat16())  # exact, as from a file of bf16
    before = {name: p.clone() for name, p in model.backbone.named_parameters()}
    (loss, gradients), (once, same) = (bf16_loss(model, dtype) for dtype in ("fp32", "bf16"))
    assert torch.equal(loss, once)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(gradients, same, strict=True))
    assert all(torch.equal(p, before[name]) for name, p in model.backbone.named_parameters())


def test_only_frozen_matrices_are_narrowed() -> None:
    model = live_model("rwkv4", "plus", torch.float32)
    model.backbone.requires_grad_(False)
    model.backbone.head.requires_grad_(True)
    with narrowed(model.backbone, "bf16"):
        narrow = {name for name, p in model.backbone.named_parameters() if p.dtype == torch.bfloat16}
    matrices = {f"{name}.weight" for name, m in model.backbone.named_modules() if isinstance(m, torch.nn.Linear)}
    assert narrow == matrices - {"head.weight"}
    assert {p.dtype for p in model.backbone.parameters()} == {torch.float32}


def test_the_probe_leaves_a_backbone_as_it_was(folder: TrainingFolder) -> None:
    backbone = load_backbone(folder.model)
    backbone.head.requires_grad_(False)
    assert probe_dtype(backbone, rows=1, seconds=0.0) in ("bf16", "fp32")
    assert all(p.grad is None and p.requires_grad == ("head" not in name) for name, p in backbone.named_parameters())
