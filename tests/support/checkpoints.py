"""Adapters beside their backbones, as a training leaves them, and what refusals look like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.checkpoints.adapter import save_adapter
from prosg.checkpoints.backbone import save_backbone
from prosg.model.prosg import ProSG
from prosg.utils.io import CheckpointError

SMALL_RWKV4 = RWKV4Config(vocab_size=40, hidden_size=16, num_layers=3, attention_size=24, ffn_size=40)


def small_rwkv4() -> RWKV4:
    model = RWKV4(SMALL_RWKV4)
    model.reset_parameters()
    return model


def same_weights(a: RWKV4, b: RWKV4) -> bool:
    """Whether two backbones are equal bit for bit."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


def save_with_base(model: ProSG, folder: Path, base: str | Path = "../base.pth", **options: Any) -> Path:
    save_backbone(model.backbone, folder.parent / "base.pth", overwrite=True)
    save_adapter(model, folder, base=base, **options)
    return folder


def assert_refused(call: Callable[[], object], message: str, kind: type[Exception] = CheckpointError) -> None:
    """Errors about files are of one line, and of a kind that the command line prints without a traceback."""
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert issubclass(kind, ValueError | OSError)
