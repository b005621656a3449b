"""Anchors of attention in a window: the prompt's keys and values stay, and a token sees them, the window and itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from prosg.backbones.hf.files import load_hf
from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.hf.windows import WINDOWED
from prosg.checkpoints.encoded import load_encoded, save_encoded
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import pulling_rows
from prosg.inspection.info import describe
from prosg.model.anchor import StateAnchor, mean_state
from prosg.model.prosg import ProSG
from support.hf_models import hf_model
from support.models import assert_near, tokens

WINDOW, PROMPT, TIME = 6, 5, 14


@pytest.fixture(params=WINDOWED)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    hf_model(request.param).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def oracle(folder: Path, text: Tensor, prompt: int) -> Tensor:
    """Logits (1, T, V) of the model itself under one mask over the whole text (1, T)."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    i, j = torch.arange(text.shape[1])[:, None], torch.arange(text.shape[1])
    first = max(0, prompt - WINDOW + 1)
    kept = (j >= first) & (j < prompt) & (i >= prompt)
    seen = (j <= i) & ((i - j < WINDOW) | kept)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits: Tensor = model(text, attention_mask=mask[None, None]).logits
    return logits


def read_on(backbone: HFBackbone, encoded: EncodedPrompt, text: Tensor) -> Tensor:
    logits = backbone(text, encoded.state, anchor=encoded.anchor).logits
    assert logits is not None
    return logits


@pytest.mark.parametrize("prompt", [PROMPT, WINDOW + 4])
@torch.no_grad()
def test_a_token_sees_the_prompt_the_window_and_itself(folder: Path, prompt: int) -> None:
    backbone, text = load_hf(folder, sliding_window=WINDOW), tokens(1, prompt + TIME)
    encoded = ProSG(backbone).encode(text[:, :prompt], memory="anchor")
    expected = oracle(folder, text, prompt)[:, prompt:]
    assert_near(read_on(backbone, encoded, text[:, prompt:]), expected, 1e-5)
    bare = backbone(text[:, prompt:], encoded.state).logits
    assert bare is not None and float((bare - expected).abs().max()) > 1e-3


@torch.no_grad()
def test_rows_of_different_lengths_are_as_alone_and_the_state_is_bounded(folder: Path) -> None:
    backbone, prompts, text = load_hf(folder, sliding_window=WINDOW), tokens(3, 9), tokens(3, TIME, seed=1)
    model, lengths = ProSG(backbone), torch.tensor([2, 9, 4])
    encoded = model.encode(prompts, lengths, memory="anchor")
    output = backbone(text, encoded.state, anchor=encoded.anchor)
    assert output.logits is not None
    for row, length in enumerate(lengths.tolist()):
        alone = model.encode(prompts[row : row + 1, :length], memory="anchor")
        assert_near(output.logits[row], read_on(backbone, alone, text[row : row + 1])[0], 1e-5)
    for layer in output.state[1:]:
        assert layer.keys.shape[2] <= WINDOW - 1 and layer.keys.untyped_storage().nbytes() == layer.keys.nbytes
    # Some rows of a batch without an anchor, as a server has them.
    mixed = EncodedPrompt.join([encoded.take(torch.tensor([0])), model.encode(prompts[1:2], memory="none")])
    both = read_on(backbone, mixed, text[:2])
    assert_near(both[0], output.logits[0], 1e-5)
    bare = backbone(text[1:2], model.encode(prompts[1:2]).state).logits
    assert bare is not None
    assert_near(both[1], bare[0], 1e-5)


@torch.no_grad()
def test_rows_are_anchored_once_and_keep_what_they_have(folder: Path) -> None:
    """Held again, a row that has an anchor keeps it, and one without gets its own."""
    model, prompts, text = ProSG(load_hf(folder, sliding_window=WINDOW)), tokens(2, PROMPT), tokens(2, TIME, seed=1)
    encoded = model.encode(prompts, memory="anchor")
    wanted = read_on(model.backbone, encoded, text)
    mixed = EncodedPrompt.join([encoded.take([0]), model.encode(prompts[1:])])
    for held in (encoded, mixed):
        assert held.anchor is not None
        assert pulling_rows(held.anchor).tolist() == [True, held is encoded]
        assert_near(read_on(model.backbone, model.held_by(held, "anchor"), text), wanted, 1e-5)


@torch.no_grad()
def test_another_prompt_and_a_wiped_state(folder: Path) -> None:
    """A text goes on after the longest of what was read and what is kept: no key is ahead of it."""
    backbone, text = load_hf(folder, sliding_window=WINDOW), tokens(1, TIME, seed=1)
    model = ProSG(backbone)
    own, other = (model.encode(tokens(1, n, seed=n), memory="anchor") for n in (3, 5))
    logits = read_on(backbone, own.replace(anchor=other.anchor), text)
    assert float((logits - read_on(backbone, own, text)).abs().max()) > 1e-3
    wiped = own.replace(state=backbone.init_state(1))
    far = read_on(backbone, wiped, text)[:, WINDOW:]
    # With one layer nothing of the prompt is left but what is kept; here that differs by what the first tokens saw.
    assert bool(far.isfinite().all())
    assert float((far - read_on(backbone, wiped.replace(anchor=None), text)[:, WINDOW:]).abs().max()) > 1e-3


@torch.no_grad()
def test_wiped_rows_read_on_at_different_speeds(folder: Path) -> None:
    """Few keys are there, and a row that reads less than others has none that it did not write."""
    backbone, text = load_hf(folder, sliding_window=WINDOW), tokens(2, TIME, seed=1)
    encoded = ProSG(backbone).encode(tokens(2, 5), memory="anchor").replace(state=backbone.init_state(2))

    def read(place: EncodedPrompt, row: Tensor, lengths: Tensor) -> EncodedPrompt:
        state = backbone(row, place.state, anchor=place.anchor, lengths=lengths, logits="none").state
        return place.replace(state=state)

    together = read(read(encoded, text[:, :2], torch.tensor([2, 2])), text[:, 2:8], torch.tensor([6, 1]))
    ahead = read_on(backbone, together, text[:, 8:9])
    for row, length in enumerate((6, 1)):
        alone = encoded.take(torch.tensor([row]))
        for t in range(2 + length):
            alone = read(alone, text[row : row + 1, t : t + 1], torch.tensor([1]))
        assert_near(ahead[row], read_on(backbone, alone, text[row : row + 1, 8:9])[0], 1e-5)


def test_what_has_no_window_or_mean(folder: Path) -> None:
    backbone = load_hf(folder, sliding_window=WINDOW)
    model = ProSG(backbone)
    with pytest.raises(ValueError, match="tau is 50; a .* keeps the prompt's keys and values"):
        StateAnchor(backbone, 50.0)
    with pytest.raises(ValueError, match="a mean prompt's keys and values are not defined"):
        mean_state(backbone, [model.encode(tokens(1, 3)).state])
    assert "stay beside the window" in dict(describe(model))["anchor"]


@torch.no_grad()
def test_files_keep_it(folder: Path, tmp_path: Path) -> None:
    backbone, text = load_hf(folder, sliding_window=WINDOW), tokens(1, TIME, seed=1)
    model = ProSG(backbone)
    encoded = model.encode(tokens(1, 4), memory="anchor")
    save_encoded(encoded, tmp_path / "prompt.safetensors", model)
    loaded = load_encoded(tmp_path / "prompt.safetensors", model)
    assert torch.equal(read_on(backbone, loaded, text), read_on(backbone, encoded, text))
