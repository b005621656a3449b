"""Models of transformers as backbones: an update is W + dW whatever the type, and a state is a value."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from prosg.backbones.base import TAPS, Backbone, Output
from prosg.backbones.hf.model import HFBackbone
from prosg.core.state import State, choose_rows, join_states, map_state, replace_rows, take_rows
from prosg.core.update import LowRank, Site, take_update_rows
from support.hf_models import (
    BATCH,
    DISTINCT,
    HF_TINY,
    HYBRIDS,
    ONE_PASS,
    TIME,
    VOCAB,
    backbone_update_tokens,
    hf_backbone,
    hf_model,
    tolerance,
)
from support.models import assert_near, gap, state_bits_equal, tokens

LENGTHS = torch.tensor([9, 1, 5])

types = pytest.mark.parametrize("name", HF_TINY)
distinct_types = pytest.mark.parametrize("name", DISTINCT)


def merged(backbone: HFBackbone, update: dict[Site, LowRank], row: int) -> HFBackbone:
    backbone = copy.deepcopy(backbone)
    for site, delta in update.items():
        module = backbone.model.get_submodule(backbone.modules_by_site[site])
        change = delta.dense()[row]
        module.weight.data += change.mT if isinstance(module, Conv1D) else change
    return backbone


def rows_of(update: dict[Site, LowRank], *rows: int) -> Any:
    return take_update_rows(update, torch.tensor(rows))


def assert_same_states(a: State, b: State, bound: float) -> None:
    for one, two in zip(a, b, strict=True):
        for ours, theirs in zip(one, two, strict=True):
            assert ours.shape == theirs.shape
            assert float((ours - theirs).abs().max()) <= bound * float(theirs.abs().max().clamp(min=1e-30))


def assert_same_output(ours: Output, theirs: Output, bound: float) -> None:
    assert_near(ours.logits, theirs.logits, bound)
    assert_same_states(ours.state, theirs.state, bound)
    for tap in TAPS:
        for a, b in zip(getattr(ours.taps, tap), getattr(theirs.taps, tap), strict=True):
            assert_near(a, b, bound)


def joined(parts: list[Output]) -> Output:
    """Outputs of calls after each other as if they were of one."""
    inputs, memory = (
        tuple(torch.cat(layer, 1) for layer in zip(*(getattr(p.taps, tap) for p in parts), strict=True))
        for tap in ("inputs", "memory")
    )
    taps = parts[-1].taps._replace(inputs=inputs, memory=memory)
    return Output(torch.cat([p.logits for p in parts], 1), parts[-1].state, taps)


@types
@torch.no_grad()
def test_without_an_update_it_is_the_model_itself(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    own = backbone.model(x, use_cache=False).logits
    assert torch.equal(backbone(x).logits, own)
    assert torch.equal(backbone(x, taps=TAPS, keep_state=False).logits, own)
    nothing = {site: LowRank(delta.a, torch.zeros_like(delta.b)) for site, delta in update.items()}
    assert torch.equal(backbone(x, update=nothing).logits, own)
    assert gap(backbone(x, update=update).logits, own) > 0.05


@types
@torch.no_grad()
def test_low_rank_equals_merged_weights(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    together = backbone(x, update=update, taps=TAPS)
    for row in range(BATCH):
        alone = merged(backbone, update, row)(x[row : row + 1], taps=TAPS)
        assert_near(together.logits[row : row + 1], alone.logits, tolerance(name))
        for tap in TAPS:
            for a, b in zip(getattr(together.taps, tap), getattr(alone.taps, tap), strict=True):
                assert_near(a[row : row + 1], b, tolerance(name))


@distinct_types
@torch.no_grad()
def test_one_call_equals_calls_cut_anywhere(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    whole = backbone(x, update=update, taps=TAPS)
    for pieces in ([x[:, :7], x[:, 7:]], list(x.split(1, 1))):
        state, parts = backbone.init_state(BATCH), []
        for piece in pieces:
            parts.append(backbone(piece, state, update=update, taps=TAPS))
            state = parts[-1].state
        assert_same_output(joined(parts), whole, tolerance(name))


@distinct_types
@torch.no_grad()
def test_rows_of_any_length_and_age_are_as_alone(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    more, lengths = tokens(BATCH, 4, seed=5), torch.tensor([2, 4, 0])
    first = backbone(x, update=update, lengths=LENGTHS, taps=TAPS)
    fast = backbone(x, update=update, lengths=LENGTHS, taps=TAPS, keep_state=False, logits="last")
    then = backbone(more, first.state, update=update, lengths=lengths, taps=TAPS)
    last = backbone(more, first.state, update=update, lengths=lengths, logits="last")
    assert fast.state == ()
    assert [int(count) for count in then.state[0].tokens] == [11, 5, 5]
    for row, (length, longer) in enumerate(zip(LENGTHS.tolist(), lengths.tolist(), strict=True)):
        own = rows_of(update, row)
        one = backbone(x[row : row + 1, :length], update=own, taps=TAPS)
        assert_near(first.logits[row, :length], one.logits[0], tolerance(name))
        assert_near(fast.logits[row], one.logits[0, -1], tolerance(name))
        for got in (first, fast):
            for a, b in zip(got.taps.last, one.taps.last, strict=True):
                assert_near(a[row], b[0], tolerance(name))
            for tap in ("inputs", "memory"):
                for a, b in zip(getattr(got.taps, tap), getattr(one.taps, tap), strict=True):
                    assert_near(a[row, :length], b[0], tolerance(name))
        if longer:
            both = torch.cat([x[row, :length], more[row, :longer]]).unsqueeze(0)
            two = backbone(both, update=own)
            assert_near(then.logits[row, :longer], two.logits[0, length:], tolerance(name))
            assert_near(last.logits[row], two.logits[0, -1], tolerance(name))


@pytest.mark.parametrize("name", ONE_PASS)
@torch.no_grad()
def test_rows_without_tokens_stay_where_they_are(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    nothing = backbone(x, update=update, lengths=torch.zeros(BATCH, dtype=torch.int64), taps=TAPS)
    assert state_bits_equal(nothing.state, backbone.init_state(BATCH))
    assert nothing.logits.shape == (BATCH, TIME, VOCAB)


@distinct_types
@torch.no_grad()
def test_states_of_any_age_are_put_together(name: str) -> None:
    """Taken, joined, replaced and chosen rows go on as they would have alone, in attention too."""
    backbone, update, x = backbone_update_tokens(name)
    short, long = backbone(x[:, :2], update=update).state, backbone(x[:, 2:], update=update).state
    y = tokens(BATCH, 3, seed=7)

    def goes_on(state: State, rows: list[tuple[int, Tensor]]) -> None:
        index = [row for row, _ in rows]
        got = backbone(y[index], state, update=rows_of(update, *index)).logits
        for place, (row, before) in enumerate(rows):
            text = torch.cat([before, y[row]]).unsqueeze(0)
            alone = backbone(text, update=rows_of(update, row)).logits[0, -3:]
            assert_near(got[place], alone, tolerance(name))

    two, zero = torch.tensor([2, 1]), torch.tensor([0])
    goes_on(join_states([take_rows(long, two), take_rows(short, zero)]), [(2, x[2, 2:]), (1, x[1, 2:]), (0, x[0, :2])])
    goes_on(replace_rows(short, two, take_rows(long, two)), [(0, x[0, :2]), (1, x[1, 2:]), (2, x[2, 2:])])
    mask = torch.tensor([True, False, True])
    goes_on(choose_rows(mask, short, long), [(0, x[0, :2]), (1, x[1, 2:]), (2, x[2, :2])])
    none = x[:, :0]
    goes_on(choose_rows(mask, backbone.init_state(BATCH), long), [(0, none[0]), (1, x[1, 2:]), (2, none[2])])


@distinct_types
@torch.no_grad()
def test_two_calls_equal_one_with_update_from(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    answer, lengths = tokens(BATCH, 4, seed=3), torch.tensor([5, 3, 7])
    both = torch.zeros(BATCH, 11, dtype=torch.int64)
    for row, length in enumerate(lengths.tolist()):
        both[row, : length + 4] = torch.cat([x[row, :length], answer[row]])
    prompt = backbone(x, lengths=lengths, logits="last")
    two = backbone(answer, prompt.state, update=update)
    for keep in (True, False):
        one = backbone(both, update=update, update_from=lengths, lengths=lengths + 4, keep_state=keep)
        for row, length in enumerate(lengths.tolist()):
            assert_near(one.logits[row, length - 1], prompt.logits[row], tolerance(name))
            assert_near(one.logits[row, length : length + 4], two.logits[row], tolerance(name))
    inside = backbone(answer, prompt.state, update=update, update_from=torch.tensor([0, 2, 9]))
    assert_near(inside.logits[0], two.logits[0], tolerance(name))
    assert_near(inside.logits[2:], backbone(answer[2:], take_rows(prompt.state, torch.tensor([2]))).logits, 2e-5)
    assert gap(inside.logits[1, :2], two.logits[1, :2]) > 0.01


@distinct_types
@torch.no_grad()
def test_nothing_stays_behind_and_nothing_given_is_written_to(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    before = backbone(x).logits
    state = backbone(x[:, :4], update=update).state
    copied = map_state(torch.clone, state)
    one = backbone(x[:, 4:], state, update=update)
    two = backbone(x[:, 4:], state, update=update)
    assert state_bits_equal(state, copied)
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(backbone(x).logits, before)
    for module in backbone.model.modules():
        assert not module._forward_hooks
        left = [value for key, value in vars(module).items() if "state" in key and isinstance(value, Tensor)]
        assert left == []
    assert torch.equal(backbone.model(x, use_cache=False).logits, before)


@types
@torch.no_grad()
def test_deferred_logits_are_the_models_own(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    own = backbone(x, update=update, keep_state=False).logits
    hidden, head = backbone(x, update=update, logits="deferred", keep_state=False).deferred
    assert_near(head(hidden), own, tolerance(name))
    # These two cap their logits, so that the head alone is not what makes them.
    assert isinstance(head, nn.Identity) == (name in ("recurrent_gemma", "xlstm"))
    assert torch.equal(backbone(x, update=update, keep_state=False).logits, own)  # no hook is left


@distinct_types
def test_training_mode_changes_nothing(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    with torch.no_grad():
        before = backbone(x, update=update)
        backbone.train()
        assert backbone.training and not backbone.model.training
        after = backbone(x, update=update)
    assert torch.equal(before.logits, after.logits)
    assert state_bits_equal(before.state, after.state)


def test_dropout_is_never_applied() -> None:
    model = hf_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    x = tokens(BATCH, TIME)
    backbone = HFBackbone(model.train()).train()
    assert torch.equal(backbone(x).logits, model.eval()(x).logits)


@distinct_types
def test_it_fulfils_the_protocol(name: str) -> None:
    backbone, _, x = backbone_update_tokens(name)
    assert isinstance(backbone, Backbone)
    assert backbone.config.model_type == name and backbone.config.vocab_size == VOCAB
    layers = {site.layer for site in backbone.sites}
    assert layers == set(range(len(backbone.tap_widths))) == set(range(len(backbone.layer_names)))
    for site, (out, inp) in backbone.sites.items():
        weight = backbone.model.get_submodule(backbone.modules_by_site[site]).weight
        assert weight.numel() == out * inp
    output = backbone(x, taps=TAPS)
    for layer, (width, memory) in enumerate(backbone.tap_widths):
        assert output.taps.last[layer].shape == (BATCH, width)
        assert output.taps.inputs[layer].shape == (BATCH, TIME, width)
        assert output.taps.memory[layer].shape == (BATCH, TIME, memory)
        assert torch.equal(output.taps.last[layer], output.taps.inputs[layer][:, -1])
    assert backbone(x, logits="none").logits is None
    assert backbone(x, logits="none").taps == ((), (), ())
    empty = backbone.init_state(BATCH)
    assert all(leaf.shape[0] == BATCH and not leaf.any() for layer in empty for leaf in layer)
    assert torch.equal(backbone(x, empty).logits, output.logits)
    assert_near(backbone(x, logits="last").logits, output.logits[:, -1], 1e-5)


def loss_of(backbone: HFBackbone, x: Tensor, update: Any) -> Tensor:
    """Prompt and answer in one call, of rows of different lengths."""
    start, lengths = torch.tensor([2, 0, 4]), torch.tensor([9, 4, 6])
    out = backbone(x, update=update, update_from=start, lengths=lengths, keep_state=False)
    scored = torch.arange(TIME) < lengths.unsqueeze(1)
    return torch.log_softmax(out.logits, 2)[..., 1].masked_fill(~scored, 0.0).mean()


@distinct_types
def test_gradients_of_the_update_are_finite_differences(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    backbone.requires_grad_(False)
    keys = list(update)
    factors = [factor.requires_grad_() for site in keys for factor in update[site]]

    def loss(*factors: Tensor) -> Tensor:
        return loss_of(backbone, x, {site: LowRank(*factors[2 * i : 2 * i + 2]) for i, site in enumerate(keys)})

    if HF_TINY[name].precise:
        assert torch.autograd.gradcheck(loss, factors, atol=1e-7, fast_mode=True)
    gradients = torch.autograd.grad(loss(*factors), factors)
    # Along the gradient, where the difference is largest, with a step that fp32 resolves.
    size = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    assert float(size) > 1e-3
    step = 0.002
    with torch.no_grad():
        up, down = (
            loss(*(f + sign * step * g / size for f, g in zip(factors, gradients, strict=True))) for sign in (1, -1)
        )
    assert float((up - down) / (2 * step)) == pytest.approx(float(size), rel=0.02)


@distinct_types
def test_gradients_of_the_weights_are_the_models_own(name: str) -> None:
    backbone, _, x = backbone_update_tokens(name)
    target = torch.log_softmax(backbone.model(x, use_cache=False).logits, 2)[..., 1].mean()
    own = torch.autograd.grad(target, [p for p in backbone.model.parameters() if p.requires_grad], allow_unused=True)
    ours = torch.autograd.grad(
        torch.log_softmax(backbone(x, keep_state=name != "xlstm").logits, 2)[..., 1].mean(),  # its cache is in the way
        list(backbone.model.parameters()),
        allow_unused=True,
    )
    assert all((a is None) == (b is None) for a, b in zip(own, ours, strict=True))
    for a, b in zip(own, ours, strict=True):
        if a is not None and bool(b.any()):
            assert_near(a, b, 1e-4)


@pytest.mark.parametrize("name", ONE_PASS)
def test_gradients_through_a_state_are_refused(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    state = backbone(x[:, :4], update=update).state
    assert not any(leaf.requires_grad for layer in state for leaf in layer)
    with pytest.raises(ValueError, match=f"gradients through .* {name} .*update_from"):
        backbone(x[:, 4:5], state)
    backbone.requires_grad_(False)
    backbone(x[:, 4:5], state, update=update)
    update[Site(0, next(iter(update)).name)].a.requires_grad_()
    with pytest.raises(ValueError, match="gradients through a state"):
        backbone(x[:, 4:5], state, update=update)


@distinct_types
def test_what_it_cannot_do_is_refused(name: str) -> None:
    backbone, update, x = backbone_update_tokens(name)
    state, numbers = backbone.init_state(BATCH), torch.zeros(BATCH)
    with pytest.raises(ValueError, match=f"{name} cannot be aged"):
        backbone.age(state, numbers, numbers)
    if name not in HYBRIDS:
        with pytest.raises(ValueError, match=f"{name} cannot be loaded"):
            backbone.load(state, state, numbers, numbers, state)
    site = next(iter(update))
    with pytest.raises(ValueError, match="unknown site 9.x"):
        backbone(x, update={Site(9, "x"): update[site]})
    with pytest.raises(ValueError, match=rf"site {site}: a has shape"):
        backbone(x, update={site: update[site]._replace(a=update[site].a[:2])})
    with pytest.raises(ValueError, match="unknown taps .'keys'."):
        backbone(x, taps=("keys",))
    backbone.model.activation_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient checkpointing is on"):
        backbone(x, update=update)


def test_more_tokens_than_xlstm_differentiates_in_one_call_are_refused() -> None:
    backbone = hf_backbone("xlstm", max_inference_chunksize=6)
    backbone(tokens(1, 6), keep_state=False).logits.sum().backward()
    with pytest.raises(ValueError, match="7 tokens .*xlstm .*6 .*max_inference_chunksize"):
        backbone(tokens(1, 7), keep_state=False)


def test_any_causal_model_serves_where_its_projections_are_named() -> None:
    sizes = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", vocab_size=VOCAB, **sizes)).double()
    with pytest.raises(ValueError, match="gpt_neox: .*target_modules.* mamba"):
        HFBackbone(model)
    backbone = HFBackbone(model, ["query_key_value", "attention.dense"])
    x = tokens(BATCH, TIME)
    with torch.no_grad():
        state = backbone(x, lengths=LENGTHS).state
        then = backbone(x[:, :2], state).logits
        for row, length in enumerate(LENGTHS.tolist()):
            alone = backbone(torch.cat([x[row, :length], x[row, :2]]).unsqueeze(0)).logits[0, -2:]
            assert_near(then[row], alone, 1e-10)


def test_a_cache_that_cannot_become_a_state_is_refused() -> None:
    sizes = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "head_dim": 6, "sliding_window": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", vocab_size=VOCAB, **sizes))
    with pytest.raises(ValueError, match="gemma2: .*windows"):
        HFBackbone(model, ["q_proj"])
