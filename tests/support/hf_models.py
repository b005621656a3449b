"""Tiny models of transformers with random weights, one per type that `HF_SITES` knows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from prosg.backbones.hf.model import HFBackbone

transformers.logging.set_verbosity_error()

VOCAB = 23
LLAMA = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
}
MAMBA = {"hidden_size": 12, "state_size": 4, "num_hidden_layers": 2}


class HFTiny(NamedTuple):
    """A type's sizes, and what its own code does."""

    sizes: dict[str, Any]
    precise: bool
    """computes in fp64 where its weights are fp64, without a norm or a recurrence in fp32"""
    continues: bool
    """reads several tokens on from its cache as it reads them at once"""
    pads: bool
    """a mask hides padding on the left"""
    differentiates: bool
    """gradients pass through its cache"""


HF_TINY: dict[str, HFTiny] = {
    "mamba": HFTiny({**MAMBA, "time_step_rank": 3}, False, False, True, False),
    "falcon_mamba": HFTiny({**MAMBA, "time_step_rank": 3}, False, False, True, False),
    "mamba2": HFTiny(
        {**MAMBA, "num_heads": 3, "head_dim": 8, "n_groups": 1, "chunk_size": 4}, False, True, True, False
    ),
    "recurrent_gemma": HFTiny(
        {
            "hidden_size": 12,
            "intermediate_size": 24,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "lru_width": 12,
            "attention_window_size": 6,
        },
        False,
        False,
        False,
        True,
    ),
    # Its cache rounds widths up to 64.
    "xlstm": HFTiny(
        {
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "chunk_size": 4,
            "autocast_kernel_dtype": "float32",
            "ffn_proj_factor": 0.5,
        },
        False,
        True,
        False,
        False,
    ),
    "qwen3_next": HFTiny(
        {
            **LLAMA,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
        False,
        True,
        True,
        False,
    ),
    "gpt2": HFTiny({"n_positions": 512, "n_embd": 12, "n_layer": 2, "n_head": 2}, True, True, True, True),
    "llama": HFTiny(LLAMA, False, True, True, True),
    "mistral": HFTiny({**LLAMA, "head_dim": 6, "sliding_window": 6}, False, True, True, True),
    "qwen2": HFTiny(LLAMA, False, True, True, True),
    "qwen3": HFTiny({**LLAMA, "head_dim": 6}, False, True, True, True),
}


def hf_model(name: str, dtype: torch.dtype = torch.float32, vocab: int = VOCAB, seed: int = 0, **sizes: Any) -> Any:
    """A model of this type whose weights are all at work."""
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(name, vocab_size=vocab, **special, **{**HF_TINY[name].sizes, **sizes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        width = model.get_input_embeddings().weight.shape[1]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.7 * width**-0.5 * torch.randn_like(parameter)
    return model.to(dtype).eval()


def hf_backbone(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> HFBackbone:
    """The same as a backbone."""
    return HFBackbone(hf_model(name, dtype, **options))
