"""Models of llama.cpp become folders: weights, tokenizer, special tokens and chat template of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.backbone import convert, load_backbone
from prosg.checkpoints.load import load_model
from prosg.data.templates import Turn
from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.bpe import train_bpe
from prosg.utils.io import CheckpointError
from support.hf_models import hf_model
from support.models import assert_near

gguf = pytest.importorskip("gguf")

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = "In 1984 there were 2048 of them."
BLOCK = 32
"""Values of a quantised block."""


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """A query's or key's weight as llama.cpp's rotary embedding wants it."""
    half = weight.view(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return half.transpose(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: Any, tokenizer: Tokenizer, pre: str = "smollm", **more: Any) -> None:
    """A tiny llama as llama.cpp's converter writes it, one of its matrices in blocks of 8 bits."""
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


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe([TEXT * 3, "one two three"], 300, min_frequency=1)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    sizes = {"hidden_size": BLOCK, "intermediate_size": 2 * BLOCK, "head_dim": BLOCK // 2}
    return hf_model("llama", vocab=tokenizer.vocab_size + 2, **sizes)


def test_a_file_becomes_a_folder_that_is_whole(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    write_gguf(tmp_path / "x.gguf", model, tokenizer)
    convert(tmp_path / "x.gguf", tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    backbone = loaded.backbone
    assert isinstance(backbone, HFBackbone) and backbone.model_type == "llama"
    same = {name: tensor for name, tensor in model.state_dict().items() if name != "model.layers.0.mlp.up_proj.weight"}
    for name, tensor in same.items():
        assert torch.equal(backbone.model.state_dict()[name], tensor), name
    x = torch.arange(20).view(2, 10)
    with torch.no_grad():
        assert_near(backbone(x).logits, model(x).logits, 0.02)  # one matrix was in 8 bits
    end, begin = tokenizer.vocab_size + 1, None
    assert loaded.special == ((end,), begin)
    framed = loaded.template.frame([Turn("user", "<|im_end|> is text")])
    ids = framed.prompt_ids(loaded.tokenizer, loaded.special)
    assert ids[0] == tokenizer.vocab_size and ids.count(end) == 1
    assert loaded.tokenizer.decode(ids).endswith("<|im_start|>assistant\n")


def test_every_digit_stands_alone_where_the_file_says_so(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    for pre, apart in (("smollm", True), ("gpt-2", False)):
        write_gguf(tmp_path / f"{pre}.gguf", model, tokenizer, pre)
        convert(tmp_path / f"{pre}.gguf", tmp_path / pre)
        own: Any = load_model(tmp_path / pre).tokenizer
        assert ("Digits" in str(own.described["pre_tokenizer"])) == apart
        assert own.decode(own.encode(TEXT)) == TEXT


def test_more_special_tokens(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    write_gguf(tmp_path / "x.gguf", model, tokenizer, add_add_bos_token=True, add_eot_token_id=0)
    convert(tmp_path / "x.gguf", tmp_path / "m", torch.bfloat16)
    loaded = load_model(tmp_path / "m")
    assert loaded.special == ((tokenizer.vocab_size + 1, 0), tokenizer.vocab_size)
    assert loaded.dtype == torch.bfloat16


def test_what_is_refused(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    file = tmp_path / "x.gguf"
    write_gguf(file, model, tokenizer)
    with pytest.raises(CheckpointError, match=r"x.gguf: a GGUF file; make a folder of it with: prosg convert"):
        load_backbone(file)
    with pytest.raises(ValueError, match="layout is 'fla', but .* is a GGUF file"):
        convert(file, tmp_path / "m", layout="fla")
    with pytest.raises(ValueError, match="sliding_window is 4, but .* convert it first"):
        convert(file, tmp_path / "m", sliding_window=4)
    with pytest.raises(CheckpointError, match=r"x.pth: a model of type llama is a folder"):
        convert(file, tmp_path / "x.pth")
    whole = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:300])
    with pytest.raises(CheckpointError, match=r"cut.gguf: not a whole GGUF file") as caught:
        convert(tmp_path / "cut.gguf", tmp_path / "m")
    assert "\n" not in str(caught.value)
    writer = gguf.GGUFWriter(tmp_path / "bare.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"bare.gguf: holds no tokenizer"):
        convert(tmp_path / "bare.gguf", tmp_path / "m")
    assert not (tmp_path / "m").exists()
