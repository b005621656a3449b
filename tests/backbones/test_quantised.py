"""Weights in 8 bits: what they say, and what cannot be done with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import prosg
from prosg.backbones.layers import quantise_matrix
from prosg.backbones.quantised import is_quantised, quantise
from prosg.checkpoints.export import merge
from prosg.checkpoints.fingerprints import fingerprint
from prosg.core.update import LowRank
from prosg.inspection.info import describe

PROMPT = "The code is 415263. Tell a short story, then give the code."


def test_a_matrix_is_off_by_half_a_step_at_most() -> None:
    weight = torch.randn(7, 30)
    weight[3] = 0
    q, scale = quantise_matrix(weight)
    assert (q.float() * scale.unsqueeze(1) - weight).abs().max() <= scale.max() / 2 * 1.001
    assert not q[3].any() and q.abs().max() == 127


def test_the_demo_answers_as_before_and_its_update_acts() -> None:
    plain, narrow = prosg.load_model("demo"), prosg.load_model("demo", quantize="int8")
    assert is_quantised(narrow.backbone) and not is_quantised(plain.backbone)
    for memory in ("none", "update", "anchor"):
        answers = [model.generate(PROMPT, temperature=0.0, memory=memory) for model in (plain, narrow)]
        assert all("415263" in answer for answer in answers)
    assert fingerprint(plain) != fingerprint(narrow)


def test_logits_agree_and_do_not_depend_on_the_form() -> None:
    plain, narrow = (prosg.load_model("demo", quantize=to).backbone for to in ("none", "int8"))
    tokens = torch.randint(1, 500, (2, 40))
    with torch.no_grad():
        exact, whole = plain(tokens).logits, narrow(tokens).logits
        state, steps = narrow.init_state(2), []
        for t in range(40):
            output = narrow(tokens[:, t : t + 1], state)
            state = output.state
            steps.append(output.logits)
    assert (torch.cat(steps, 1) - whole).abs().max() <= 1e-4 * whole.abs().max()
    kl = torch.nn.functional.kl_div(whole.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="none")
    assert kl.sum(-1).mean() < 0.01


def test_what_cannot_be(tmp_path: Path) -> None:
    model = prosg.load_model("demo", quantize="int8")
    with pytest.raises(ValueError, match="cannot be saved"):
        prosg.save_backbone(model.backbone, tmp_path / "model.pth")
    update = {site: LowRank(torch.ones(1, 1, i), torch.ones(1, o, 1)) for site, (o, i) in model.backbone.sites.items()}
    with pytest.raises(ValueError, match="cannot be merged"):
        merge(model.backbone, update)
    assert not list(tmp_path.iterdir())
    said = dict(describe(model))
    assert "generating" in said and not any("train" in name for name in said)
    with pytest.raises(ValueError, match="already"):
        quantise(model.backbone)
    with pytest.raises(ValueError, match="transformers"):
        quantise(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"quantize has int9 \(int8\?\)|quantize has int9"):
        prosg.load_model("demo", quantize="int9")
