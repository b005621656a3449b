"""`prosg info`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from prosg.backbones.rwkv4 import RWKV4, RWKV4_SIZES
from prosg.checkpoints.backbone import save_backbone


def test_info_names_sizes_kernel_and_module(output: Callable[..., str]) -> None:
    out = output("info", "plus")
    for words in ("rwkv4", "hidden_size", "fingerprint", "kernel", "module", "plus", "300 tokens"):
        assert words in out


def test_info_of_the_debug_size(tmp_path: Path, output: Callable[..., str]) -> None:
    model = RWKV4(RWKV4_SIZES["debug"])
    model.reset_parameters(torch.Generator().manual_seed(0))
    save_backbone(model, tmp_path / "x.pth")
    lines = dict(line.split(None, 1) for line in output("info", tmp_path / "x.pth").splitlines())
    assert lines["hidden_size"] == "32" and lines["tokenizer"] == "none"
    assert lines["parameters"].startswith(f"{sum(p.numel() for p in model.parameters()):,} ")
