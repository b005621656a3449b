"""Texts that are longer than a model has positions for, which depend on nothing but their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prosg.backbones.base import FullError
from prosg.backbones.hf.model import HFBackbone
from support.hf_models import hf_model
from support.models import VOCAB, assert_near, tokens

MOST = 8
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 3, "long_factor": [4.0] * 3}
ROTARY: list[dict[str, Any]] = [
    {"rope_scaling": DYNAMIC, "max_position_embeddings": MOST},
    {"rope_scaling": {**LONG, "original_max_position_embeddings": MOST}, "max_position_embeddings": 4 * MOST},
]


@pytest.mark.parametrize("sizes", ROTARY)
@torch.no_grad()
def test_a_row_does_not_turn_the_positions_of_another(sizes: dict[str, Any]) -> None:
    backbone, x = HFBackbone(hf_model("llama", **sizes)), tokens(2, MOST + 4)
    short = backbone(x[1:, :3]).logits
    with pytest.raises(
        FullError, match=f"the text has {MOST + 4} tokens; this llama has {MOST} positions .*rope_type"
    ) as full:
        backbone(x, lengths=torch.tensor([MOST + 4, 3]))
    assert full.value.rows == [True, False]
    state = backbone(x[:, :MOST]).state
    with pytest.raises(FullError):
        backbone(x[:, MOST:], state)
    assert_near(backbone(x[1:, :3]).logits, short, 1e-6)
    assert_near(backbone(x[:, : MOST - 4], None).logits, backbone.model(x[:, : MOST - 4]).logits, 1e-6)


@torch.no_grad()
def test_other_tables_end_as_gpt2s() -> None:
    sizes = {"hidden_size": 12, "ffn_dim": 20, "word_embed_proj_dim": 12, "num_hidden_layers": 2}
    config = AutoConfig.for_model("opt", vocab_size=VOCAB, num_attention_heads=2, max_position_embeddings=MOST, **sizes)
    backbone, x = HFBackbone(AutoModelForCausalLM.from_config(config), ["q_proj", "v_proj"]), tokens(1, MOST + 1)
    assert backbone(x[:, :MOST]).logits is not None
    with pytest.raises(FullError, match=rf"this opt has {MOST} positions \(max_position_embeddings\)"):
        backbone(x)
