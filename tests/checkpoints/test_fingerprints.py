"""Fingerprints: what they tell apart, and what they do not depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import prosg
from prosg.backbones.rwkv4 import RWKV4
from prosg.checkpoints import fingerprints
from prosg.checkpoints.fingerprints import backbone_fingerprint, model_fingerprint
from prosg.model.config import PRESETS
from prosg.model.prosg import ProSG
from support.checkpoints import SMALL_RWKV4


def test_fingerprint_tells_weights_apart(model: RWKV4) -> None:
    before = backbone_fingerprint(model)
    wider = RWKV4(SMALL_RWKV4).double()
    wider.load_state_dict(model.state_dict())
    assert backbone_fingerprint(wider) == before
    with torch.no_grad():
        model.blocks[1].ffn.value.weight[0, 0] += 1
    assert backbone_fingerprint(model) != before


def test_every_value_counts(model: RWKV4) -> None:
    before = backbone_fingerprint(model)
    weights = model.emb.weight
    for rows in (slice(1, None, 2), slice(0, 1)):
        with torch.no_grad():
            kept = weights[rows].clone()
            weights[rows] = 0.0
        assert backbone_fingerprint(model) != before
        with torch.no_grad():
            weights[rows] = kept
        assert backbone_fingerprint(model) == before


def test_a_large_tensor_is_hashed_in_pieces_to_its_last_value(model: RWKV4, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = backbone_fingerprint(model)
    monkeypatch.setattr(fingerprints, "CHUNK", 7)
    assert backbone_fingerprint(model) == whole
    with torch.no_grad():
        model.head.weight.view(-1)[-1] += 1.0
    assert backbone_fingerprint(model) != whole


def test_values_that_fp32_cannot_hold_count_too(model: RWKV4) -> None:
    wide = model.double()
    before = backbone_fingerprint(wide)
    with torch.no_grad():
        wide.emb.weight[0, 0] += 1e-15
    assert backbone_fingerprint(wide) != before


def test_a_model_without_a_module_has_its_backbones_fingerprint(model: RWKV4) -> None:
    assert model_fingerprint(ProSG(model)) == backbone_fingerprint(model) == prosg.fingerprint(model)


def test_a_modules_options_count(model: RWKV4) -> None:
    one, two = (ProSG(model, replace(PRESETS["plus"], alpha=alpha), seed=0) for alpha in (1.0, 2.0))
    assert prosg.fingerprint(one) == model_fingerprint(one) != model_fingerprint(two)
