"""Types that nobody has tested: what is read on from a state has to be the text itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prosg.backbones.hf.model import HFBackbone
from support.models import VOCAB

SIZES = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT = {"n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 32}
JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 4}
SEVERAL = {**SIZES, "num_key_value_heads": 2, "head_dim": 6, "num_local_experts": 2}


def model_of(model_type: str, **sizes: Any) -> Any:
    """With weights so large that every token counts."""
    config = AutoConfig.for_model(model_type, vocab_size=VOCAB, bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize(
    ("model_type", "sizes", "projection", "words"),
    [
        ("openai-gpt", GPT, "c_attn", "keeps no state"),
        ("rwkv", SIZES, "attention.key", "keeps no state"),
        ("roberta", {**SIZES, "is_decoder": True}, "query", "something else"),
        ("bert", SIZES, "query", "sees ahead"),
        ("minimax", {**SEVERAL, "num_experts_per_tok": 1}, "q_proj", "cannot be read on .*MiniMax"),
        ("llama4_text", {**SEVERAL, "attention_chunk_size": 4}, "q_proj", "in chunks"),
    ],
)
def test_what_does_not_go_on_as_its_text_is_refused(
    model_type: str, sizes: dict[str, Any], projection: str, words: str
) -> None:
    with pytest.raises(ValueError, match=f"{model_type}: .*{words}"):
        HFBackbone(model_of(model_type, **sizes), [projection])


@pytest.mark.parametrize(
    ("model_type", "sizes", "projection"),
    [
        ("bert", {**SIZES, "is_decoder": True}, "query"),
        ("bloom", {"hidden_size": 12, "n_layer": 2, "n_head": 2}, "query_key_value"),
        ("phi3", {**SIZES, "num_key_value_heads": 2, "sliding_window": 2}, "qkv_proj"),
        ("jamba", {**SEVERAL, **JAMBA, "num_experts": 2}, "in_proj"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_does_is_not(model_type: str, sizes: dict[str, Any], projection: str, dtype: torch.dtype) -> None:
    if (model_type, dtype) != ("jamba", torch.bfloat16):  # its experts' product takes rows of 16 bytes
        HFBackbone(model_of(model_type, **sizes).to(dtype), [projection])
