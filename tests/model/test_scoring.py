"""Scores through a head in pieces, and through heads that cannot be taken apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prosg.backbones.layers import plain_matrix
from prosg.backbones.quantised import quantise
from prosg.model.prosg import ProSG, Scored
from prosg.model.scoring import score_answer
from prosg.ops.head_loss import pieces
from prosg.training.perturbation import Perturber
from support.hf_models import hf_backbone
from support.models import TINY, VOCAB, assert_near, live_model, tokens
from support.two_passes import batch, draws

LENGTHS = torch.tensor([5, 1, 3])


class Wrapped(nn.Module):
    """A head as an adapter library leaves it: the same numbers, out of reach."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def trained(model: ProSG) -> tuple[Scored, list[Tensor]]:
    scored = model(**batch())
    return scored, list(torch.autograd.grad(scored.loss, list(model.backbone.parameters())))


@pytest.mark.parametrize("name", ["rwkv4", "llama"])
def test_a_wrapped_head_gives_the_same_losses_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LOGITS_BYTES", {"cpu": 4 * 3 * VOCAB})
    plain, wrapped = (
        live_model(name, None) if name == "rwkv4" else ProSG(hf_backbone(name, torch.float64)) for _ in range(2)
    )
    if name == "rwkv4":
        wrapped.backbone.head = Wrapped(wrapped.backbone.head)
    else:
        wrapped.backbone.model.lm_head = Wrapped(wrapped.backbone.model.lm_head)
    (one, gradients), (other, theirs) = trained(plain), trained(wrapped)
    tolerance = 1e-10 if name == "rwkv4" else 2e-5
    assert_near(one.loss, other.loss, tolerance)
    assert_near(one.nll, other.nll, tolerance)
    assert torch.equal(one.hits, other.hits)
    for ours, wanted in zip(gradients, theirs, strict=True):
        assert_near(ours, wanted, tolerance)


@pytest.mark.parametrize("name", [*TINY, "llama", "qwen3_next"])
def test_phase_1_reads_prompt_and_answer_in_one_call(name: str) -> None:
    """Nothing happens between them; losses and gradients are those of two calls."""
    in_one = live_model(name, None) if name in TINY else ProSG(hf_backbone(name, torch.float32))
    calls = []
    in_one.backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    one, gradients = trained(in_one)
    assert len(calls) == 1
    two = in_one(**batch(), perturber=Perturber(draws(), None))
    theirs = torch.autograd.grad(two.loss, list(in_one.backbone.parameters()))
    assert len(calls) > 2
    tolerance = 1e-10 if name in TINY else 1e-4
    assert_near(one.loss, two.loss, tolerance)
    assert_near(one.nll, two.nll, tolerance)
    assert torch.equal(one.hits, two.hits)
    for ours, wanted in zip(gradients, theirs, strict=True):
        assert_near(ours, wanted, tolerance)
    in_one.backbone.checkpoint_every = 1  # a long prompt is read in chunks then
    calls.clear()
    in_one(**batch())
    assert len(calls) == 2


@torch.no_grad()
def test_int8_is_scored_in_pieces() -> None:
    model = live_model("rwkv4", None, torch.float32)
    quantise(model.backbone)
    encoded, answer = model.encode(tokens(3, 6)), tokens(3, 5, seed=2)
    whole = score_answer(model.backbone, encoded, answer, LENGTHS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "LOGITS_BYTES", {"cpu": 4 * 2 * VOCAB})
        cut = score_answer(model.backbone, encoded, answer, LENGTHS, chunk=2)
    assert_near(cut.nll, whole.nll, 1e-5)
    assert torch.equal(cut.hits, whole.hits)


def test_what_is_a_plain_matrix() -> None:
    head = nn.Linear(3, 4, bias=False)
    assert plain_matrix(head) is head.weight
    assert plain_matrix(nn.Linear(3, 4)) is None and plain_matrix(Wrapped(head)) is None
    head.register_forward_hook(lambda module, arguments, y: y)
    assert plain_matrix(head) is None
