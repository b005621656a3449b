"""What only RWKV-7 has: a value that crosses layers, a memory that is added to, ranks that files determine."""

from __future__ import annotations

import pytest
import torch

from prosg.backbones.rwkv7 import RWKV7, RWKV7_SIZES, RWKV7Config
from prosg.core.update import LowRank, Site
from prosg.ops.step.naive import FASTEST
from support.models import live_backbone


def tiny() -> RWKV7:
    model: RWKV7 = live_backbone("rwkv7")
    return model


def test_the_first_layers_value_reaches_the_others_under_its_update():
    """With what layer 0 itself adds cut off, an update of its value can be seen in layer 1's memory all the same."""
    model, tokens = tiny(), torch.randint(1, 23, (2, 5))
    with torch.no_grad():
        model.blocks[0].att.output.weight.zero_()
    out, inp = model.sites[Site(0, "value")]
    update = {Site(0, "value"): LowRank(torch.randn(2, 1, inp).double(), torch.randn(out, 1).double())}
    with torch.no_grad():
        plain, changed = (model(tokens, update=u, taps=("inputs", "memory")) for u in (None, update))
    assert torch.equal(plain.taps.inputs[1], changed.taps.inputs[1])
    assert float((plain.taps.memory[1] - changed.taps.memory[1]).abs().max()) > 0.01


def test_loading_adds_memories_and_leaves_token_shifts_alone():
    model = tiny()
    with torch.no_grad():
        own, other = (model(torch.randint(1, 23, (3, 6)), logits="none").state for _ in range(2))
        keep, weight = torch.tensor([1.0, 0.25, 0.5]).double(), torch.tensor([1.0, 7.0, 0.0])
        loaded = model.load(own, other, keep, weight, own)
    for before, other_layer, after in zip(own, other, loaded, strict=True):
        expected = keep.view(-1, 1, 1, 1) * before.memory + other_layer.memory * (weight > 0).view(-1, 1, 1, 1)
        assert torch.equal(after.memory, expected)
        assert torch.equal(after.att_shift, before.att_shift)
        assert torch.equal(after.ffn_shift, before.ffn_shift)


def test_a_fresh_model_remembers_and_forgets_at_many_speeds():
    """Decays per token of a model to be trained from scratch: from a few tokens to thousands."""
    model = RWKV7(RWKV7_SIZES["demo"])
    model.reset_parameters(torch.Generator().manual_seed(0))
    for block in model.blocks:
        lost = FASTEST * torch.sigmoid(block.att.w0)
        assert float(lost.min()) < 2e-3
        assert float(lost.max()) > 0.1


def test_published_sizes_are_those_of_the_files():
    """Numbers of parameters as published with the World models (arXiv 2503.14456)."""
    sizes = {"0.1B": 191_034_624, "0.4B": 450_767_872, "1.5B": 1_527_404_544, "2.9B": 2_947_735_040}
    for name, published in sizes.items():
        with torch.device("meta"):
            assert sum(p.numel() for p in RWKV7(RWKV7_SIZES[name]).parameters()) == published, name


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size", "num_layers", "head_size"])
def test_sizes_have_to_be_positive(name):
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_layers": 1, "head_size": 4, name: 0}
    with pytest.raises(ValueError, match=name):
        RWKV7Config(**sizes)


def test_heads_of_one_channel_are_refused_since_their_norm_forgets_what_they_hold():
    with pytest.raises(ValueError, match="head_size is 1, must be at least 2"):
        RWKV7Config(vocab_size=8, hidden_size=8, num_layers=1, head_size=1)


def test_heads_have_to_divide_the_width():
    with pytest.raises(ValueError, match="attention_size is 96.* head_size 64"):
        RWKV7Config(vocab_size=8, hidden_size=96, num_layers=1)
