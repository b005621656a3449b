"""Losses in pieces against those from whole logits: values, gradients, and how many logits there are at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prosg.ops.head_loss import HeadLoss, head_loss, join_losses, naive_head_loss, piece_starts, pieces

TOKENS, WIDTH, VOCAB = 11, 6, 23


@pytest.fixture(autouse=True)
def pieces_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LOGITS_BYTES", {"cpu": 4 * 4 * VOCAB})


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, W, targets, weights (one of them 0), the teacher's hidden states."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    targets = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    weights = torch.rand(TOKENS, generator=generator) * (torch.arange(TOKENS) != 2)
    return draw(TOKENS, WIDTH), draw(VOCAB, WIDTH), targets, weights.to(dtype), draw(TOKENS, WIDTH)


def whole(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, teacher: Tensor | None) -> HeadLoss:
    imitated = None if teacher is None else (teacher @ weight.mT).detach()
    return naive_head_loss(hidden @ weight.mT, targets, weights, imitated)


def test_whole_logits_give_the_losses_of_pytorch() -> None:
    hidden, weight, targets, weights, teacher = inputs()
    logits, wanted = hidden @ weight.mT, teacher @ weight.mT
    nll = F.cross_entropy(logits, targets, reduction="none")
    divergence = F.kl_div(logits.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True).sum(1)
    plain, taught = whole(hidden, weight, targets, weights, None), whole(hidden, weight, targets, weights, teacher)
    torch.testing.assert_close(plain.loss, (weights * nll).sum())
    torch.testing.assert_close(taught.loss, (weights * divergence).sum())
    torch.testing.assert_close(taught.nll, nll)
    assert torch.equal(plain.hits, logits.argmax(1) == targets)


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_pieces_give_the_values_and_gradients_of_whole_logits(taught: bool, dtype: torch.dtype, scale: float) -> None:
    hidden, weight, targets, weights, teacher = inputs(dtype)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    results, gradients = [], []
    for compute in (whole, head_loss):
        results.append(compute(hidden, weight, targets, weights, teacher if taught else None))
        gradients.append(torch.autograd.grad(scale * results[-1].loss, leaves))
    tolerance = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(tuple(results[1]), tuple(results[0]), **tolerance)
    torch.testing.assert_close(gradients[1], gradients[0], **tolerance)


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_gradients_by_finite_differences(taught: bool, trained: bool) -> None:
    hidden, weight, targets, weights, teacher = inputs()
    leaves = [hidden.requires_grad_(), *([weight.requires_grad_()] if trained and not taught else [])]
    imitated = teacher if taught else None
    assert torch.autograd.gradcheck(lambda *_: head_loss(hidden, weight, targets, weights, imitated).loss, leaves)


def test_only_what_is_trained_has_a_gradient() -> None:
    hidden, weight, targets, weights, _ = inputs()
    assert not head_loss(hidden, weight, targets, weights).loss.requires_grad
    scored = head_loss(hidden.requires_grad_(), weight, targets, weights)
    assert scored.loss.requires_grad and not scored.nll.requires_grad
    scored.loss.backward()
    assert weight.grad is None
    with torch.no_grad():
        assert not head_loss(hidden, weight.requires_grad_(), targets, weights).loss.requires_grad


def test_a_frozen_head_has_pieces_of_logits_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets, weights, _ = inputs()
    rows: list[int] = []

    def counted(x: Tensor, matrix: Tensor) -> Tensor:
        rows.append(len(x))
        return F.linear(x, matrix)

    monkeypatch.setattr(pieces, "linear", counted)
    head_loss(hidden.requires_grad_(), weight, targets, weights).loss.backward()
    assert rows == [4, 4, 3]


@pytest.mark.parametrize("taught", [False, True])
def test_bf16_by_autocast(taught: bool) -> None:
    hidden, weight, targets, weights, teacher = inputs(torch.float32)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    imitated = teacher if taught else None
    with torch.autocast("cpu", torch.bfloat16):
        plain = naive_head_loss(
            F.linear(hidden, weight), targets, weights, F.linear(teacher, weight) if taught else None
        )
        scored = head_loss(hidden, weight, targets, weights, imitated)
    torch.testing.assert_close(scored.nll, plain.nll, rtol=1e-5, atol=1e-5)  # the same rounding
    torch.testing.assert_close(scored.loss, plain.loss, rtol=1e-5, atol=1e-5)
    assert torch.equal(scored.hits, plain.hits)
    exact = torch.autograd.grad(whole(hidden, weight, targets, weights, imitated).loss, leaves)
    for ours, theirs in zip(torch.autograd.grad(scored.loss, leaves), exact, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 2e-2


def test_no_tokens() -> None:
    hidden, weight, targets, weights, _ = inputs()
    hidden.requires_grad_(), weight.requires_grad_()
    scored = head_loss(hidden[:0], weight, targets[:0], weights[:0])
    scored.loss.backward()
    assert float(scored.loss.detach()) == 0 and scored.nll.shape == (0,)
    assert not weight.grad.any()


def test_runs_of_tokens_join() -> None:
    hidden, weight, targets, weights, _ = inputs()
    runs = list(piece_starts(TOKENS, VOCAB, hidden.device))
    assert [run.start for run in runs] == [0, 4, 8]
    joined = join_losses([whole(hidden[run], weight, targets[run], weights[run], None) for run in runs])
    torch.testing.assert_close(tuple(joined), tuple(whole(hidden, weight, targets, weights, None)))
