"""RWKV-7 as a model file of llama.cpp.

Matrices keep the model's type; vectors, norms and the low-rank pairs, which are small, are fp32, as llama.cpp wants
them. Its code computes with attention as wide as the model, with 64e-5 in the group norm, and with heads of which the
processor's vectors, taken four at a time, are a divisor: of 64 channels on every processor.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from prosg.backbones import BackboneModule
from prosg.backbones.layouts import RWKV7_LAYOUT, Names, rename
from prosg.backbones.quantised import refuse_quantised
from prosg.backbones.rwkv7 import LN_X_EPS, RWKV7, RWKV7Config
from prosg.checkpoints.gguf_file import GGUFFile, gguf_file
from prosg.checkpoints.gguf_vocabulary import add_vocabulary
from prosg.model.prosg import ProSG
from prosg.utils.device import dtype_name

__all__ = ["check_gguf_model", "export_gguf_model"]

NAMES: Names = (
    ("emb.*", "token_embd.*"),
    ("blocks.0.ln0.*", "token_embd_norm.*"),
    ("blocks.N.ln1.*", "blk.N.attn_norm.*"),
    ("blocks.N.ln2.*", "blk.N.attn_norm_2.*"),
    ("blocks.N.att.ln_x.*", "blk.N.time_mix_ln.*"),
    *((f"blocks.N.att.{name}.*", f"blk.N.time_mix_{name}.*") for name in RWKV7.site_names),
    ("blocks.N.att.*", "blk.N.time_mix_*.weight"),
    ("blocks.N.ffn.x_k", "blk.N.channel_mix_lerp_k.weight"),
    ("blocks.N.ffn.*", "blk.N.channel_mix_*"),
    ("ln_out.*", "output_norm.*"),
    ("head.*", "output.*"),
)
"""BlinkDL's names and llama.cpp's."""
MATRICES = re.compile(r"(token_embd|output|time_mix_(receptance|key|value|output)|channel_mix_(key|value))\.weight$")
"""Tensors of llama.cpp that keep the model's type."""
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}
"""Types of the matrices, and llama.cpp's `general.file_type` of a file with them."""
SURE_HEADS = 64
"""Channels of a head, or multiples of it, with which every build of llama.cpp computes."""
CONTEXT = 1 << 20
"""llama.cpp wants a context's greatest length; a recurrent model has none."""


def export_gguf_model(model: ProSG, path: str | Path, *, overwrite: bool = False) -> str:
    """Writes a model's backbone, tokenizer and chat template as a GGUF file that llama.cpp opens.

    Args:
        model: An RWKV-7; a synthesizer that it has is left out.
        path: The file, which ends in .gguf.
        overwrite: Replace a file that is there.

    Returns:
        What became of the tokenizer, in words, and of weights in fp64, and a caution about heads that not every
        llama.cpp computes with.

    Raises:
        CheckpointError: for a path that does not end in .gguf.
        FileExistsError: for a file that may not be replaced.
        ValueError: for another backbone, a quantised one, sizes that llama.cpp cannot compute with, and where the
            `gguf` package is not installed.
    """
    backbone = check_gguf_model(model.backbone)
    config = backbone.config
    with gguf_file(path, "rwkv7", overwrite=overwrite) as file:
        file.writer.add_type("model")
        _add_sizes(file, config)
        stored: torch.dtype = backbone.emb.weight.dtype
        dtype = stored if stored in TYPES else torch.float32
        file.writer.add_file_type(TYPES[dtype])
        said = add_vocabulary(file, model, config.vocab_size)
        for name, tensor in _tensors(dict(backbone.state_dict()), config).items():
            file.add_tensor(name, tensor, dtype if MATRICES.search(name) else torch.float32)
    if dtype != stored:
        said += (
            f"; its weights, {dtype_name(stored)}, are written as {dtype_name(dtype)}, the widest that llama.cpp has"
        )
    if config.head_size % SURE_HEADS:
        said += (
            f"; heads of {config.head_size}: llama.cpp computes them right where it is built for AVX2 "
            "(-DGGML_NATIVE=OFF), wrongly where it is built for AVX-512, and not on GPUs"
        )
    return said


def check_gguf_model(backbone: BackboneModule) -> RWKV7:
    """Returns the backbone if llama.cpp computes the same with it. Raises ValueError if it does not."""
    if not isinstance(backbone, RWKV7):
        raise ValueError(
            f"a GGUF model is written of an RWKV-7, and this is {backbone.config.model_type}; llama.cpp has a "
            "converter of its own for Mamba's kinds, and no RWKV-4"
        )
    refuse_quantised(backbone, "written as a GGUF model")
    config = backbone.config
    if config.attention_size != config.hidden_size:
        raise ValueError(
            f"attention_size is {config.attention_size}; llama.cpp's RWKV-7 has attention as wide as the model, "
            f"{config.hidden_size}"
        )
    if not math.isclose(config.ln_x_eps, LN_X_EPS, rel_tol=1e-6):
        raise ValueError(f"ln_x_eps is {config.ln_x_eps}; llama.cpp's RWKV-7 computes with {LN_X_EPS}")
    return backbone


def _add_sizes(file: GGUFFile, config: RWKV7Config) -> None:
    writer = file.writer
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(config.head_size)
    writer.add_decay_lora_rank(config.decay_rank)
    writer.add_iclr_lora_rank(config.rate_rank)
    writer.add_value_residual_mix_lora_rank(config.value_rank)
    writer.add_gate_lora_rank(config.gate_rank)
    writer.add_head_count(0)  # demanded, and not used


def _tensors(weights: dict[str, Tensor], config: RWKV7Config) -> dict[str, Tensor]:
    """Returns the tensors under llama.cpp's names, in its orientation and shapes."""
    stored: dict[str, Tensor] = {}
    for i in range(config.num_layers):
        att = f"blocks.{i}.att"
        mixes = torch.stack([weights.pop(f"{att}.{name}").flatten() for name in RWKV7_LAYOUT.stacks["x_x"]])
        stored[f"blk.{i}.time_mix_lerp_fused.weight"] = mixes.view(6, 1, 1, -1)
    for number in range(3):  # the first layer has no use of v0, v1, v2, but must have them, with the rank of a1 a2
        weights[f"blocks.0.att.v{number}"] = weights[f"blocks.0.att.a{number}"]
    for name, tensor in weights.items():
        target = rename(name, NAMES)
        assert target is not None
        if RWKV7_LAYOUT.transposed.search(name):
            tensor = tensor.mT
        elif not MATRICES.search(target) and not name.endswith(".ffn.x_k"):
            tensor = tensor.flatten()
        stored[target] = tensor
    return stored
