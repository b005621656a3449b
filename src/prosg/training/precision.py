"""Which arithmetic a training runs in: fp32, or bf16 by autocast over fp32 weights.

Autocast would cast a frozen matrix anew at every call, and keep the copy until the backward pass; `narrowed` casts it
once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from prosg.backbones.base import Backbone
from prosg.backbones.layers import MetaAwareLinear
from prosg.model.objective import token_losses
from prosg.model.prosg import ProSG
from prosg.utils import distributed
from prosg.utils.io import written_whole
from prosg.utils.outside import read_text
from prosg.utils.values import shown

__all__ = ["narrowed", "probe_dtype", "resolve_dtype"]

SPEEDUP = 1.5
"""How much faster than fp32 bf16 has to be, to be worth its rounding."""


def probe_dtype(backbone: Backbone, rows: int = 32, seconds: float = 0.5) -> str:
    """Measures forward and backward passes in both arithmetics.

    Lengths change from pass to pass, as in training: on a CPU each new shape costs bf16 products a set-up.

    Args:
        backbone: What is measured; its parameters are left as they were.
        rows: Rows per pass.
        seconds: Time spent on each arithmetic.

    Returns:
        "bf16" where it is at least `SPEEDUP` times as fast, else "fp32".
    """
    assert isinstance(backbone, nn.Module)
    device = next(backbone.parameters()).device
    trainable = [p.requires_grad for p in backbone.parameters()]
    backbone.requires_grad_(True)

    def passes_per_second(autocast: bool) -> float:
        count, start = -1, time.perf_counter()
        while count < 1 or time.perf_counter() - start < seconds:
            if count == 0:  # the first pass is not measured
                start = time.perf_counter()
            tokens = torch.zeros(rows, 33 + 7 * (count % 5), dtype=torch.int64, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                deferred = backbone(tokens, logits="deferred", keep_state=False).deferred
                assert deferred is not None
                targets, weights = tokens.flatten(), torch.ones(tokens.numel(), device=device)
                loss = token_losses(deferred.hidden.flatten(0, 1), deferred.head, targets, weights).loss
            loss.backward()
            count += 1
        return count / (time.perf_counter() - start)

    faster = passes_per_second(True) > SPEEDUP * passes_per_second(False)
    backbone.zero_grad(set_to_none=True)
    for parameter, before in zip(backbone.parameters(), trainable, strict=True):
        parameter.requires_grad_(before)
    return "bf16" if faster else "fp32"


def resolve_dtype(dtype: str, folder: Path, model: ProSG) -> str:
    """What "auto" means for a run: probed once and recorded, so that a resumed run and every process agree.

    Args:
        dtype: "fp32", "bf16" or "auto".
        folder: The run's, which keeps the record.
        model: What is trained.

    Raises:
        ValueError: where the record is damaged.
    """

    def resolve() -> str:
        record = folder / "dtype"
        if dtype == "auto" and record.exists():
            recorded = read_text(record).strip()
            if recorded not in ("fp32", "bf16"):
                raise ValueError(f"{record}: holds {shown(recorded)}, must hold fp32 or bf16; name it with --dtype")
            return recorded
        chosen = probe_dtype(model.backbone) if dtype == "auto" else dtype
        if not record.exists():
            with written_whole(record) as temporary:
                temporary.write_text(chosen)
        return chosen

    return distributed.run_on_first(resolve)


@contextmanager
def narrowed(backbone: nn.Module, dtype: str) -> Iterator[None]:
    """Within, the frozen matrices of a native backbone are bf16, as autocast would make them at every call.

    Afterwards they are what they were, to the last bit. The wide ones are kept only where bf16 rounds them; files of
    RWKV models are bf16 themselves.

    Args:
        backbone: What autocast runs; its projections and its head are cast, vectors and embeddings are not.
        dtype: The training's, "fp32" or "bf16"; nothing happens in fp32.
    """
    kept: list[tuple[MetaAwareLinear, torch.dtype, Tensor | None]] = []
    for layer in backbone.modules() if dtype == "bf16" else ():
        if isinstance(layer, MetaAwareLinear) and not layer.weight.requires_grad:
            wide, narrow = layer.weight.data, layer.weight.data.bfloat16()
            exact = torch.equal(narrow.to(wide.dtype), wide)
            kept.append((layer, wide.dtype, None if exact else wide))
            layer.weight.data = narrow
    try:
        yield
    finally:
        for layer, wide_dtype, original in kept:
            layer.weight.data = layer.weight.data.to(wide_dtype) if original is None else original
