"""Fingerprints: what they tell apart, and what they do not depend on."""

from __future__ import annotations

import torch

from prosg.backbones.rwkv4 import RWKV4
from prosg.checkpoints.fingerprints import backbone_fingerprint
from support.checkpoints import SMALL_RWKV4


def test_fingerprint_tells_weights_apart(model: RWKV4) -> None:
    before = backbone_fingerprint(model)
    wider = RWKV4(SMALL_RWKV4).double()
    wider.load_state_dict(model.state_dict())
    assert backbone_fingerprint(wider) == before
    with torch.no_grad():
        model.blocks[1].ffn.value.weight[0, 0] += 1
    assert backbone_fingerprint(model) != before
