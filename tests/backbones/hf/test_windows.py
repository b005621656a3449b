"""Llama-like models read with a sliding window: the same weights, a bounded state."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prosg.backbones.hf.cache import AttentionState
from prosg.backbones.hf.files import load_hf
from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.hf.windows import WINDOWED, attention_window, windowed_config
from prosg.checkpoints.adapter import load_adapter, save_adapter
from prosg.checkpoints.backbone import convert, load_backbone, save_backbone
from prosg.checkpoints.fingerprints import backbone_fingerprint, checkpoint_fingerprint
from prosg.checkpoints.load import load_model
from prosg.inspection.info import describe
from prosg.model.prosg import ProSG
from prosg.utils.io import CheckpointError
from support.hf_models import LLAMA, VOCAB, hf_backbone, hf_model
from support.models import assert_near, live_backbone, tokens

WINDOW, TIME = 4, 11


@pytest.fixture(params=WINDOWED)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    hf_model(request.param).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@torch.no_grad()
def test_a_token_depends_on_the_window_alone(folder: Path) -> None:
    """With one layer: in deeper models what a token sees has itself seen what stood before."""
    model = hf_model(AutoConfig.from_pretrained(folder).model_type, num_hidden_layers=1)
    model.save_pretrained(folder)
    backbone, x = load_hf(folder, sliding_window=WINDOW), tokens(2, TIME)
    assert backbone.window == WINDOW
    logits = backbone(x).logits
    other = torch.cat([(x[:, :3] + 1) % VOCAB, x[:, 3:]], 1)
    assert_near(backbone(other).logits[:, 2 + WINDOW :], logits[:, 2 + WINDOW :], 1e-5)
    assert not torch.allclose(backbone(other).logits[:, 1 + WINDOW], logits[:, 1 + WINDOW], atol=1e-4)


@torch.no_grad()
def test_within_the_window_it_is_the_model_itself(folder: Path) -> None:
    whole = load_hf(folder, sliding_window=500)
    x = tokens(2, 5)  # mistral's own window is 6
    assert_near(whole(x).logits, load_hf(folder)(x).logits, 1e-5)


@torch.no_grad()
def test_the_state_is_bounded_and_reads_on_as_one_call(folder: Path) -> None:
    backbone, x = load_hf(folder, sliding_window=WINDOW), tokens(3, TIME)
    lengths = torch.tensor([2, 7, 4])
    state = backbone(x[:, :7], lengths=lengths).state
    then = backbone(x[:, 7:], state)
    for row, length in enumerate(lengths.tolist()):
        alone = backbone(torch.cat([x[row, :length], x[row, 7:]]).unsqueeze(0)).logits[0, length:]
        assert_near(then.logits[row], alone, 1e-5)
    for layer in (*state[1:], *then.state[1:]):
        assert isinstance(layer, AttentionState)
        for leaf in layer:
            assert leaf.shape[2] <= WINDOW - 1
            assert leaf.untyped_storage().nbytes() == leaf.nbytes  # not a view of the whole text's


def test_others_are_refused_by_name(tmp_path: Path) -> None:
    sizes = {**LLAMA, "head_dim": 6, "num_hidden_layers": 6, "sliding_window": 4}
    gemma = AutoConfig.for_model("gemma3_text", vocab_size=VOCAB, **sizes)
    with pytest.raises(ValueError, match=r"a gemma3_text cannot .*5 of its 6 layers see 4 tokens.*allowed for llama"):
        windowed_config(gemma, 64)
    with pytest.raises(ValueError, match=r"different sizes \(5 see 4 tokens, 1 the whole text\)"):
        HFBackbone(AutoModelForCausalLM.from_config(gemma), ["q_proj"])
    with pytest.raises(ValueError, match="a gpt2 cannot be read with one; allowed for llama"):
        windowed_config(hf_model("gpt2").config, 64)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        windowed_config(hf_model("llama").config, 1)
    odd: Any = 2.5
    with pytest.raises(ValueError, match="sliding_window is 2.5; it must be of type int"):
        inspect.unwrap(windowed_config)(hf_model("llama").config, odd)  # without the check of types under pytest
    with pytest.raises(ValueError, match="llama has attention_bias"):
        windowed_config(hf_model("llama", attention_bias=True).config, 64)
    save_backbone(live_backbone("rwkv4"), tmp_path / "native")
    with pytest.raises(ValueError, match="rwkv4, which has no attention"):
        load_backbone(tmp_path / "native", sliding_window=64)


@pytest.mark.parametrize(("name", "window"), [("llama", 0), ("mistral", 6), ("qwen2", 0), ("mamba", 0)])
def test_a_models_own_window(name: str, window: int) -> None:
    assert attention_window(hf_model(name).config) == hf_backbone(name).window == window


def test_an_adapter_remembers_the_window(tmp_path: Path) -> None:
    hf_model("llama").save_pretrained(tmp_path / "m")
    model = ProSG.from_scratch(load_model(tmp_path / "m", sliding_window=WINDOW), "plus", seed=0)
    save_adapter(model, tmp_path / "adapter", base="../m")
    again, _ = load_adapter(tmp_path / "adapter")
    assert isinstance(again.backbone, HFBackbone) and again.backbone.window == WINDOW
    assert load_model(tmp_path / "adapter", sliding_window=WINDOW).backbone.config.sliding_window == WINDOW
    with pytest.raises(ValueError, match=r"sliding_window is 9, but .*trained with a window of 4"):
        load_model(tmp_path / "adapter", sliding_window=9)
    whole = ProSG.from_scratch(load_model(tmp_path / "m"), "plus", seed=0)
    save_adapter(whole, tmp_path / "whole", base="../m")
    with pytest.raises(ValueError, match="trained without one"):
        load_model(tmp_path / "whole", sliding_window=9)
    config = tmp_path / "adapter" / "prosg_config.json"
    config.write_text(config.read_text().replace('"sliding_window": 4', '"sliding_window": "x"'))
    with pytest.raises(CheckpointError, match="sliding_window is 'x'"):
        load_model(tmp_path / "adapter")


def test_a_folder_of_its_own(tmp_path: Path) -> None:
    hf_model("llama").save_pretrained(tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "windowed", sliding_window=WINDOW)
    loaded: Any = load_backbone(tmp_path / "windowed")
    assert loaded.model_type == "mistral" and loaded.window == WINDOW
    assert loaded.config.architectures == ["MistralForCausalLM"]
    fingerprint = checkpoint_fingerprint(tmp_path / "m", WINDOW)
    assert backbone_fingerprint(load_backbone(tmp_path / "m", sliding_window=WINDOW)) == fingerprint
    assert fingerprint != checkpoint_fingerprint(tmp_path / "m")
    with torch.no_grad():
        x = tokens(2, TIME)
        assert_near(loaded(x).logits, load_backbone(tmp_path / "m", sliding_window=WINDOW)(x).logits, 1e-6)


def test_info_says_what_bounds_the_state(tmp_path: Path) -> None:
    hf_model("llama").save_pretrained(tmp_path / "m")
    said = dict(describe(load_model(tmp_path / "m", sliding_window=WINDOW)))
    assert "up to" in said["generating"] and "(4 tokens)" in said["generating"]
    assert "with every token that attention sees" in dict(describe(load_model(tmp_path / "m")))["generating"]
