"""What only RWKV-4 has: a decay that learns from ageing, and a memory whose scale is never differentiated."""

from __future__ import annotations

import pytest
import torch

from prosg.backbones.rwkv4 import RWKV4, RWKV4_SIZES, RWKV4Config


def tiny() -> RWKV4:
    model = RWKV4(RWKV4_SIZES["debug"]).double()
    model.reset_parameters(torch.Generator().manual_seed(0))
    return model


def test_the_decay_learns_from_an_aged_gap():
    """Finite differences of a loss after ageing; without the gap's gradient they would be off by its length."""
    model = tiny()
    before, after = torch.randint(0, 256, (2, 9)), torch.randint(0, 256, (2, 6))
    steps, shift = torch.tensor([5.0, 40.0]).double(), torch.tensor([-1.0, -0.3]).double()

    def loss() -> torch.Tensor:
        state = model.age(model(before, logits="none").state, steps, shift)
        return model(after, state).logits.square().mean()

    decay = model.blocks[0].att.time_decay
    loss().backward()
    for channel in (0, 5, 10, 20):
        with torch.no_grad():
            decay[channel] += 1e-5
            above = loss()
            decay[channel] -= 2e-5
            below = loss()
            decay[channel] += 1e-5
        assert float(decay.grad[channel]) == pytest.approx(float((above - below) / 2e-5), rel=1e-4, abs=1e-10)


def test_ageing_leaves_values_to_top_alone():
    model = tiny()
    state = model(torch.randint(0, 256, (2, 9)), logits="none").state
    aged = model.age(state, torch.tensor([3.0, 3000.0]).double(), torch.zeros(2).double())
    for old, new in zip(state, aged, strict=True):
        assert torch.equal(old.num, new.num)
        assert torch.equal(old.den, new.den)
        assert bool((new.top < old.top).all())


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_layers"])
def test_sizes_have_to_be_positive(name):
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_layers": 1, name: 0}
    with pytest.raises(ValueError, match=name):
        RWKV4Config(**sizes)
