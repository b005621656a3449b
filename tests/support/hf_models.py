"""Tiny models of transformers with random weights, one per type that `HF_SITES` knows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from prosg.backbones.hf.model import HFBackbone
from prosg.core.update import LowRank, Site
from support.models import tokens

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


BATCH, TIME = 3, 9


class HFTiny(NamedTuple):
    """The sizes of a type's tiny model, and what its own code can do."""

    sizes: dict[str, Any]
    precise: bool = False
    """computes in fp64 where its weights are fp64, without a norm or a recurrence in fp32"""
    continues: bool = False
    """reads several tokens on from its cache as it reads them at once"""
    pads: bool = False
    """a mask hides padding on the left"""
    differentiates: bool = False
    """gradients pass through its cache"""
    ours: bool = False
    """runs with this package's cache, so that calls continue as those of native backbones do"""


MAMBA2 = {**MAMBA, "num_heads": 3, "head_dim": 8, "n_groups": 1, "chunk_size": 4}
GRIFFIN = {
    "hidden_size": 12,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "lru_width": 12,
    "attention_window_size": 6,
}
XLSTM = {  # its cache rounds widths up to 64
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "chunk_size": 4,
    "autocast_kernel_dtype": "float32",
    "ffn_proj_factor": 0.5,
}
QWEN3_NEXT = {
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
}
QWEN3_5 = {name: size for name, size in QWEN3_NEXT.items() if "expert" not in name and "moe" not in name}
GPT2 = {"n_positions": 512, "n_embd": 12, "n_layer": 2, "n_head": 2}

HF_TINY: dict[str, HFTiny] = {
    "mamba": HFTiny({**MAMBA, "time_step_rank": 3}, pads=True),
    "falcon_mamba": HFTiny({**MAMBA, "time_step_rank": 3}, pads=True),
    "mamba2": HFTiny(MAMBA2, continues=True, pads=True),
    "recurrent_gemma": HFTiny(GRIFFIN, differentiates=True),
    "xlstm": HFTiny(XLSTM, continues=True),
    "qwen3_next": HFTiny(QWEN3_NEXT, continues=True, pads=True, ours=True),
    "qwen3_5_text": HFTiny({**QWEN3_5, "linear_num_value_heads": 4}, continues=True, pads=True, ours=True),
    "qwen3_5_moe_text": HFTiny(QWEN3_NEXT, continues=True, pads=True, ours=True),
    "gpt2": HFTiny(GPT2, precise=True, continues=True, pads=True, differentiates=True, ours=True),
    "llama": HFTiny(LLAMA, continues=True, pads=True, differentiates=True, ours=True),
    "mistral": HFTiny(
        {**LLAMA, "head_dim": 6, "sliding_window": 6}, continues=True, pads=True, differentiates=True, ours=True
    ),
    "qwen2": HFTiny(LLAMA, continues=True, pads=True, differentiates=True, ours=True),
    "qwen3": HFTiny({**LLAMA, "head_dim": 6}, continues=True, pads=True, differentiates=True, ours=True),
}
DISTINCT = [name for name in HF_TINY if name not in ("qwen2", "qwen3", "qwen3_5_text", "qwen3_5_moe_text")]
"""Without the types whose code is llama's or qwen3_next's."""
CONTINUING = [name for name, tiny in HF_TINY.items() if tiny.ours]
HYBRIDS = ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"]
"""Gated DeltaNet and attention: their recurrence is this package's, too."""
ONE_PASS = [name for name in DISTINCT if name not in CONTINUING]


def hf_model(name: str, dtype: torch.dtype = torch.float32, vocab: int = VOCAB, seed: int = 0, **sizes: Any) -> Any:
    """A model of this type with weights that leave no part idle."""
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
    """The same model as a backbone."""
    return HFBackbone(hf_model(name, dtype, **options))


def tolerance(name: str) -> float:
    """Largest relative difference between two equivalent computations of this type's model."""
    return 1e-10 if HF_TINY[name].precise else 2e-5


def backbone_update_tokens(name: str) -> tuple[HFBackbone, dict[Site, LowRank], Tensor]:
    """A backbone in the widest type that it computes in, an update as large as its weights, and tokens."""
    dtype = torch.float64 if HF_TINY[name].precise else torch.float32
    backbone = hf_backbone(name, dtype)
    generator = torch.Generator().manual_seed(0)
    update = {
        site: LowRank(
            torch.randn(BATCH, 2, inp, generator=generator).to(dtype) / inp**0.5,
            torch.randn(BATCH, out, 2, generator=generator).to(dtype) / inp**0.5,
        )
        for site, (out, inp) in backbone.sites.items()
    }
    return backbone, update, tokens(BATCH, TIME)
