"""Tiny models in llama.cpp's format, as its converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prosg.tokenizers.base import Tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BLOCK = 32
"""Values of a quantised block."""


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """A query's or key's weight as llama.cpp's rotary embedding wants it."""
    half = weight.view(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return half.transpose(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: Any, tokenizer: Tokenizer, pre: str = "smollm", **more: Any) -> None:
    """A tiny llama as llama.cpp's converter writes it, one of its matrices in blocks of 8 bits."""
    import gguf

    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    described = tokenizer.described["model"]
    vocabulary = sorted(described["vocab"], key=described["vocab"].get)
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    names = [*vocabulary, *control[1:]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(names)
    writer.add_token_types([3 if name in control else 1 for name in names])
    writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
    writer.add_bos_token_id(names.index("<|im_start|>"))
    writer.add_eos_token_id(names.index("<|im_end|>"))
    writer.add_chat_template(TEMPLATE)
    for key, value in more.items():
        getattr(writer, key)(value)
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    parts |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    parts |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    tensors = {"token_embd": state["model.embed_tokens.weight"], "output_norm": state["model.norm.weight"]}
    tensors["output"] = state["lm_head.weight"]
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for i in range(config.num_hidden_layers):
        for ours, theirs in parts.items():
            weight = state[f"model.layers.{i}.{ours}.weight"]
            tensors[f"blk.{i}.{theirs}"] = permuted(weight, heads[theirs]) if theirs in heads else weight
    for name, tensor in tensors.items():
        values = tensor.numpy()
        if name == "blk.0.ffn_up":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
