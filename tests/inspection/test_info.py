"""`prosg info`: what it says of a model's memory, against counts made another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prosg.inspection.info import describe
from prosg.model.memory import activation_bytes
from support.models import TINY, live_backbone, live_model


def kept_by_the_whole(backbone: Any, time: int) -> int:
    """Bytes of the distinct tensors that a pass of the whole model saves for its gradient, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = backbone(torch.zeros(1, time, dtype=torch.int64)).logits  # of which training keeps what the head read
    del result
    return sum(t.untyped_storage().nbytes() for place, t in saved.items() if place not in weights)


@pytest.mark.parametrize("name", TINY)
def test_activations_are_those_of_the_whole_model(name: str) -> None:
    backbone = live_backbone(name, torch.float32)
    whole = (kept_by_the_whole(backbone, 256) - kept_by_the_whole(backbone, 128)) / 128
    assert activation_bytes(backbone, frozen=False) == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize("name", TINY)
def test_a_frozen_backbone_keeps_less(name: str) -> None:
    backbone = live_backbone(name, torch.float32)
    backbone.emb.weight.requires_grad_(False)
    assert 0 < activation_bytes(backbone, frozen=True) < activation_bytes(backbone, frozen=False)
    assert not backbone.emb.weight.requires_grad
    assert backbone.head.weight.requires_grad


@pytest.mark.parametrize("name", TINY)
def test_every_backbone_is_described(name: str) -> None:
    model = live_model(name, "plus", torch.float32)
    lines = dict(describe(model))
    assert lines["type"] == model.backbone.config.model_type
    assert len([line for line in lines if line.startswith("  preset")]) == 3
    state = sum(leaf.numel() * 4 for layer in model.backbone.init_state(1) for leaf in layer)
    update = sum(4 * 8 * (out + inp) for out, inp in model.backbone.sites.values())
    amount = f"{state} bytes" if state < 1000 else f"{state / 1000:.3g} KB"
    assert f"per row {amount} of state and {update / 1000:.3g} KB of update" in lines["generating"]
