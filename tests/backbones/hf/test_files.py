"""Folders of transformers' models: what is in them is what is loaded, and what is wrong with one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prosg.backbones.hf.files import load_hf
from prosg.checkpoints.backbone import load_backbone
from support.checkpoints import assert_refused
from support.hf_models import hf_model


def change_weights(folder: Path, **tensors: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), **tensors}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 1}, "surplus tensors: model.layers.1.input_layernorm.weight, .* and 6 more"),
        ({"num_hidden_layers": 3}, "missing tensors: model.layers.2.input_layernorm.weight"),
        ({"vocab_size": 20}, "mismatched tensors: lm_head.weight is 23x12, expected 20x12, model.embed_tokens"),
        ({"num_attention_heads": 5}, r"hidden size \(12\) is not a multiple of the number of attention heads \(5\)"),
        ({"hidden_act": "foo"}, "config.json names 'foo'"),
    ],
)
def test_a_configuration_that_the_weights_are_not_of(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    hf_model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    assert_refused(lambda: load_hf(tmp_path), words)


def test_masks_that_earlier_versions_stored_are_no_weights(tmp_path: Path) -> None:
    hf_model("gpt2").save_pretrained(tmp_path)
    mask = "transformer.h.0.attn.masked_bias"
    change_weights(tmp_path, **{mask: torch.tensor(-1e4)})
    load_hf(tmp_path)
    change_weights(tmp_path, **{f"{mask}_2": torch.tensor(1.0)})
    assert_refused(lambda: load_hf(tmp_path), "surplus tensors: .*masked_bias_2")


def test_a_damaged_pickle_is_named(tmp_path: Path) -> None:
    model = hf_model("gpt2")
    model.config.save_pretrained(tmp_path)
    file = tmp_path / "pytorch_model.bin"
    torch.save(model.state_dict(), file)
    content = file.read_bytes()
    load_backbone(tmp_path)
    for damaged, words in (
        (b"", "pytorch_model.bin: empty"),
        (content[:-10], "pytorch_model.bin: truncated"),
        (b"version https://git-lfs", "pytorch_model.bin: not a PyTorch checkpoint"),
    ):
        file.write_bytes(damaged)
        assert_refused(lambda: load_backbone(tmp_path), words)


def test_experts_are_computed_in_fp64_too(tmp_path: Path) -> None:
    hf_model("qwen3_next").save_pretrained(tmp_path)
    ids = torch.arange(1, 9).unsqueeze(0)
    with torch.no_grad():
        wide, narrow = (load_hf(tmp_path, dtype=dtype)(ids).logits for dtype in (torch.float64, torch.float32))
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), narrow, atol=1e-4, rtol=1e-4)
