"""Which arithmetic a training runs in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from prosg.model.prosg import ProSG
from prosg.utils import distributed
from prosg.utils.io import written_whole

__all__ = ["probe_dtype", "settle_dtype"]


def probe_dtype(backbone: Any, rows: int = 32, seconds: float = 0.5) -> str:
    """bf16 where this backbone's passes, there and back, are half as fast again under autocast as in fp32; else fp32.

    Lengths change from pass to pass, as in training: on a CPU each new shape costs bf16 products a set-up.
    """
    device = next(backbone.parameters()).device
    trainable = [p.requires_grad for p in backbone.parameters()]
    backbone.requires_grad_(True)

    def rate(enabled: bool) -> float:
        count, start = -1, time.perf_counter()
        while count < 1 or time.perf_counter() - start < seconds:
            if count == 0:
                start = time.perf_counter()
            tokens = torch.zeros(rows, 33 + 7 * (count % 5), dtype=torch.int64, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
                loss = torch.log_softmax(backbone(tokens, keep_state=False).logits.float(), 2)[..., 0].mean()
            loss.backward()
            count += 1
        return count / (time.perf_counter() - start)

    faster = rate(True) > 1.5 * rate(False)
    backbone.zero_grad(set_to_none=True)
    for parameter, before in zip(backbone.parameters(), trainable, strict=True):
        parameter.requires_grad_(before)
    return "bf16" if faster else "fp32"


def settle_dtype(wanted: str, output: Path, model: ProSG) -> str:
    """What "auto" means here. Probed once for a run: a resumed one, and every process, keeps what it began with."""

    def settled() -> str:
        recorded = output / "dtype"
        if wanted != "auto":
            chosen = wanted
        else:
            chosen = recorded.read_text() if recorded.exists() else probe_dtype(model.backbone)
        if not recorded.exists():
            with written_whole(recorded) as whole:
                whole.write_text(chosen)
        return chosen

    return distributed.run_on_first(settled)
