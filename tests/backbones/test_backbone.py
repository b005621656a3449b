"""The contract of all native backbones: calls may be split anywhere, rows are independent, an update acts as W + dW."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prosg.backbones.base import TAPS, Backbone, Output
from prosg.checkpoints.backbone import convert, load_backbone, save_backbone
from prosg.checkpoints.fingerprints import backbone_fingerprint, checkpoint_fingerprint
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import detach_state, map_state, take_rows
from prosg.core.update import LowRank, Site, take_update_rows
from prosg.model.prosg import ProSG
from support.models import (
    SYSTEMS,
    TINY,
    TOLERANCE,
    assert_near,
    assert_same_state,
    live_backbone,
    live_model,
    state_bits_equal,
    tokens,
)

BATCH, TIME = 3, 8
PROMPT_LENGTHS = torch.tensor([5, 3, 7])

systems = pytest.mark.parametrize(("name", "module"), SYSTEMS)
backbones = pytest.mark.parametrize("name", TINY)
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def prepare(name: str, module: str, dtype: torch.dtype = torch.float64) -> tuple[ProSG, EncodedPrompt, Tensor]:
    """A model, three encoded prompts and what is read on."""
    model = live_model(name, module, dtype)
    encoded = model.encode(tokens(BATCH, 7, seed=1), PROMPT_LENGTHS)
    return model, encoded, tokens(BATCH, TIME, seed=2)


def join_time(parts: list[Output]) -> Output:
    first = parts[0]
    taps = first.taps._replace(
        last=parts[-1].taps.last,
        inputs=tuple(torch.cat(layer, 1) for layer in zip(*(p.taps.inputs for p in parts), strict=True)),
        memory=tuple(torch.cat(layer, 1) for layer in zip(*(p.taps.memory for p in parts), strict=True)),
    )
    return Output(torch.cat([p.logits for p in parts], 1), parts[-1].state, taps)


def assert_same_output(name: str, ours: Output, theirs: Output, tolerance: float) -> None:
    assert_near(ours.logits, theirs.logits, tolerance)
    assert_same_state(name, ours.state, theirs.state, tolerance)
    for tap in TAPS:
        mine, other = getattr(ours.taps, tap), getattr(theirs.taps, tap)
        assert len(mine) == len(other) > 0
        for a, b in zip(mine, other, strict=True):
            assert_near(a, b, tolerance)


@systems
@dtypes
def test_one_call_equals_calls_cut_anywhere(name: str, module: str, dtype: torch.dtype) -> None:
    model, encoded, x = prepare(name, module, dtype)
    tolerance = TOLERANCE[dtype]

    def read(pieces: list[Tensor]) -> Output:
        state, parts = encoded.state, []
        for piece in pieces:
            parts.append(model.backbone(piece, state, update=encoded.update, taps=TAPS))
            state = parts[-1].state
        return join_time(parts)

    with torch.no_grad():
        whole = read([x])
        for cut in range(1, TIME):
            assert_same_output(name, read([x[:, :cut], x[:, cut:]]), whole, tolerance)
        assert_same_output(name, read(list(x.split(1, dim=1))), whole, tolerance)
        plain = model.backbone(x, encoded.state)
    # ... and the update was on.
    assert float((plain.logits - whole.logits).abs().max()) > 0.05


@systems
@dtypes
@pytest.mark.parametrize("cuts", [(3, 0, 8), (1, 7, 4)])
def test_each_row_may_be_cut_elsewhere(name: str, module: str, dtype: torch.dtype, cuts: tuple[int, ...]) -> None:
    model, encoded, x = prepare(name, module, dtype)
    first = torch.tensor(cuts)
    index = (first.unsqueeze(1) + torch.arange(TIME)).clamp(max=TIME - 1)
    with torch.no_grad():
        whole = model.backbone(x, encoded.state, update=encoded.update, taps=TAPS)
        one = model.backbone(x, encoded.state, update=encoded.update, lengths=first, taps=TAPS)
        two = model.backbone(
            x.gather(1, index), one.state, update=encoded.update, lengths=TIME - first, taps=TAPS, logits="last"
        )
        two_all = model.backbone(x.gather(1, index), one.state, update=encoded.update, lengths=TIME - first, taps=TAPS)
    assert_same_state(name, two.state, whole.state, TOLERANCE[dtype])
    goes_on = first < TIME  # "last" is the last valid token's; a row without one has none
    for mine, other in zip(two.taps.last, whole.taps.last, strict=True):
        assert_near(mine[goes_on], other[goes_on], TOLERANCE[dtype])
    for row, cut in enumerate(cuts):
        joined = torch.cat([one.logits[row, :cut], two_all.logits[row, : TIME - cut]])
        assert_near(joined, whole.logits[row], TOLERANCE[dtype])
        for tap in ("inputs", "memory"):
            ours = zip(getattr(one.taps, tap), getattr(two_all.taps, tap), getattr(whole.taps, tap), strict=True)
            for a, b, c in ours:
                assert_near(torch.cat([a[row, :cut], b[row, : TIME - cut]]), c[row], TOLERANCE[dtype])
        if cut < TIME:
            assert_near(two.logits[row], whole.logits[row, -1], TOLERANCE[dtype])


@systems
@dtypes
def test_a_ragged_row_equals_the_row_alone(name: str, module: str, dtype: torch.dtype) -> None:
    model, encoded, x = prepare(name, module, dtype)
    lengths = torch.tensor([8, 1, 5])
    other = x.clone()
    other[1, 1:], other[2, 5:] = 22, 3
    with torch.no_grad():
        ragged = model.backbone(x, encoded.state, update=encoded.update, lengths=lengths, taps=TAPS)
        last = model.backbone(x, encoded.state, update=encoded.update, lengths=lengths, logits="last")
        padded = model.backbone(other, encoded.state, update=encoded.update, lengths=lengths, taps=TAPS)
        assert state_bits_equal(ragged.state, padded.state)
        for row, length in enumerate(lengths.tolist()):
            alone = encoded.take(torch.tensor([row]))
            single = model.backbone(x[row : row + 1, :length], alone.state, update=alone.update, taps=TAPS)
            assert_near(ragged.logits[row, :length], single.logits[0], TOLERANCE[dtype])
            assert_near(last.logits[row], single.logits[0, -1], TOLERANCE[dtype])
            assert torch.equal(ragged.logits[row, :length], padded.logits[row, :length])
            assert_same_state(name, take_rows(ragged.state, torch.tensor([row])), single.state, TOLERANCE[dtype])
            for a, b in zip(ragged.taps.last, single.taps.last, strict=True):
                assert_near(a[row], b[0], TOLERANCE[dtype])
            for tap in ("inputs", "memory"):
                for a, b in zip(getattr(ragged.taps, tap), getattr(single.taps, tap), strict=True):
                    assert_near(a[row, :length], b[0], TOLERANCE[dtype])


@backbones
def test_a_row_without_valid_tokens_keeps_its_state(name: str) -> None:
    model, encoded, x = prepare(name, "plus")
    with torch.no_grad():
        none = model.backbone(x, encoded.state, update=encoded.update, lengths=torch.tensor([0, 2, 0]))
        rows = torch.tensor([0, 2])
        assert state_bits_equal(take_rows(none.state, rows), take_rows(encoded.state, rows))


@systems
@dtypes
def test_low_rank_equals_merged_weights(name: str, module: str, dtype: torch.dtype) -> None:
    model, encoded, x = prepare(name, module, dtype)
    assert encoded.update is not None
    with torch.no_grad():
        together = model.backbone(x, encoded.state, update=encoded.update, taps=TAPS)
        for row in range(BATCH):
            merged = copy.deepcopy(model.backbone)
            for site, delta in encoded.update.items():
                weight = TINY[name].weight(merged, site)
                weight += delta.dense()[row].to(dtype)
            index = torch.tensor([row])
            single = merged(x[index], take_rows(encoded.state, index), taps=TAPS)
            assert_near(together.logits[index], single.logits, TOLERANCE[dtype])
            assert_same_state(name, take_rows(together.state, index), single.state, TOLERANCE[dtype])


@systems
@dtypes
def test_two_calls_equal_one_with_update_from(name: str, module: str, dtype: torch.dtype) -> None:
    model, encoded, answer = prepare(name, module, dtype)
    prompt = tokens(BATCH, 7, seed=1)
    joined = torch.zeros(BATCH, 7 + TIME, dtype=torch.int64)
    for row, length in enumerate(PROMPT_LENGTHS.tolist()):
        joined[row, : length + TIME] = torch.cat([prompt[row, :length], answer[row]])
    with torch.no_grad():
        two = model.backbone(answer, encoded.state, update=encoded.update)
        one = model.backbone(joined, update=encoded.update, update_from=PROMPT_LENGTHS, lengths=PROMPT_LENGTHS + TIME)
    assert_same_state(name, one.state, two.state, TOLERANCE[dtype])
    for row, length in enumerate(PROMPT_LENGTHS.tolist()):
        rounding = TINY[name].rounding if dtype == torch.float32 else 1.0
        assert_near(one.logits[row, length : length + TIME], two.logits[row], TOLERANCE[dtype] * rounding)
        assert_near(one.logits[row, length - 1], encoded.logits[row], TOLERANCE[dtype])


@systems
def test_training_mode_changes_nothing(name: str, module: str) -> None:
    model, encoded, x = prepare(name, module)
    with torch.no_grad():
        model.eval()
        one, read = model.backbone(x, encoded.state, update=encoded.update), model.encode(x)
        model.train()
        two, again = model.backbone(x, encoded.state, update=encoded.update), model.encode(x)
    assert torch.equal(one.logits, two.logits)
    assert state_bits_equal(one.state, two.state)
    assert torch.equal(read.logits, again.logits)
    assert all(torch.equal(read.update[site].dense(), again.update[site].dense()) for site in read.update)


def no_difference(backbone: Any) -> dict[Site, LowRank]:
    return {
        site: LowRank(torch.randn(BATCH, 2, inp).double(), torch.zeros(out, 2).double())
        for site, (out, inp) in backbone.sites.items()
    }


@backbones
def test_an_update_of_zero_is_bit_equal_to_none(name: str) -> None:
    backbone, x = live_backbone(name), tokens(BATCH, TIME)
    with torch.no_grad():
        one, two = backbone(x, update=no_difference(backbone)), backbone(x)
    assert torch.equal(one.logits, two.logits)
    assert state_bits_equal(one.state, two.state)


@backbones
def test_deferred_logits_are_the_heads(name: str) -> None:
    backbone, x = live_backbone(name), tokens(BATCH, TIME)
    with torch.no_grad():
        output = backbone(x, logits="deferred")
        assert output.logits is None and output.deferred is not None
        assert torch.equal(output.deferred.head(output.deferred.hidden), backbone(x).logits)


@backbones
def test_gradients_through_state_and_update(name: str) -> None:
    """Finite differences in fp64, through two calls: weights, the state between them, the update's factors."""
    backbone = live_backbone(name, vocab=5)
    backbone.requires_grad_(False)
    x = tokens(2, 4, vocab=5)
    state = detach_state(backbone(tokens(2, 3, seed=3, vocab=5)).state)
    update = {
        site: LowRank(0.3 * torch.randn(2, 2, inp).double(), 0.3 * torch.randn(out, 2).double())
        for site, (out, inp) in backbone.sites.items()
    }
    names = backbone.site_names
    sites = [Site(0, names[0]), Site(0, names[-1]), Site(len(backbone.blocks) - 1, names[1])]
    weights = {
        f"blocks.0.att.{n}": p.detach().clone() for n, p in backbone.blocks[0].att.named_parameters() if p.dim() == 1
    }

    def loss(*leaves: Tensor) -> Tensor:
        factors = {site: LowRank(leaves[2 * i], leaves[2 * i + 1]) for i, site in enumerate(sites)}
        *changed_weights, shift = leaves[2 * len(sites) :]
        changed = dict(zip(weights, changed_weights, strict=True))
        first = state[0]._replace(**{state[0]._fields[0]: shift})
        one = torch.func.functional_call(
            backbone,
            changed,
            (x[:, :2], (first, *state[1:])),
            {"update": update | factors, "lengths": torch.tensor([2, 1])},
        )
        two = torch.func.functional_call(backbone, changed, (x[:, 2:], one.state), {"update": update | factors})
        return torch.log_softmax(two.logits, 2)[:, :, :2]

    inputs = [factor for site in sites for factor in update[site]] + list(weights.values()) + [state[0][0].clone()]
    assert torch.autograd.gradcheck(loss, [t.requires_grad_() for t in inputs], atol=1e-7, fast_mode=True)


@backbones
def test_gradients_reach_the_memory(name: str) -> None:
    """d loss / d (every leaf of a state) by finite differences, as far as a leaf is differentiable at all."""
    backbone = live_backbone(name)
    state = detach_state(backbone(tokens(1, 3)).state)
    x = tokens(1, 2, seed=5)
    for field in state[0]._fields:
        if field == "top":  # RWKV-4's running maximum: a scale, whose gradient goes through num and den
            continue

        def loss(leaf: Tensor, field: str = field) -> Tensor:
            return backbone(x, (state[0]._replace(**{field: leaf}), *state[1:])).logits.square().mean()

        leaf = getattr(state[0], field).clone().requires_grad_()
        assert torch.autograd.gradcheck(loss, [leaf], atol=1e-7, fast_mode=True)
        assert float(torch.autograd.grad(loss(leaf), leaf)[0].abs().max()) > 0


@backbones
def test_it_fulfils_the_protocol(name: str) -> None:
    backbone = live_backbone(name)
    assert isinstance(backbone, Backbone)
    for site, (out, inp) in backbone.sites.items():
        assert TINY[name].weight(backbone, site).shape == (out, inp)
    output = backbone(tokens(BATCH, TIME), taps=TAPS)
    for layer, (width, memory) in enumerate(backbone.tap_widths):
        assert output.taps.last[layer].shape == (BATCH, width)
        assert output.taps.inputs[layer].shape == (BATCH, TIME, width)
        assert output.taps.memory[layer].shape == (BATCH, TIME, memory)
        assert torch.equal(output.taps.last[layer], output.taps.inputs[layer][:, -1])
    assert backbone(tokens(BATCH, TIME), logits="none").logits is None
    assert backbone(tokens(BATCH, TIME), logits="none").taps == ((), (), ())
    empty = backbone.init_state(BATCH)
    assert all(leaf.shape[0] == BATCH for layer in empty for leaf in layer)
    assert torch.equal(backbone(tokens(BATCH, TIME), empty).logits, output.logits)


@backbones
def test_what_does_not_fit_is_refused(name: str) -> None:
    backbone, x = live_backbone(name), tokens(BATCH, TIME)
    fits = no_difference(backbone)
    site = Site(1, backbone.site_names[1])
    a, b = fits[site]
    for wrong, message in (
        ({Site(9, "x"): fits[site]}, rf"9\.x; .*0\.{backbone.site_names[0]}, "),
        ({site: LowRank(a[:2], b)}, f"site {site}: a has shape"),
        ({site: LowRank(a[:, :, :-1], b)}, f"site {site}: a has shape"),
        ({site: LowRank(a, b[:-1])}, f"site {site}: b has shape"),
        ({site: LowRank(a[:, :1], b)}, f"site {site}: b has shape"),
        (take_update_rows(fits, torch.tensor([0])), r"a has shape \(1, 2"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone(x, update=wrong)
    with pytest.raises(ValueError, match="taps .'keys'.*last, inputs, memory"):
        backbone(x, taps=("keys",))


@backbones
@pytest.mark.parametrize("shape", [(1, 0), (0, 3), (3,)], ids=str)
def test_a_call_without_tokens_is_refused(name: str, shape: tuple[int, ...]) -> None:
    backbone = live_backbone(name, torch.float32)
    for lengths in (None, torch.zeros(shape[0], dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"tokens has shape .*; a call reads \(B, T\)"):
            backbone(torch.zeros(shape, dtype=torch.int64), lengths=lengths)


@backbones
@pytest.mark.parametrize(("lengths", "says"), [([4, 1], "0 to 3"), ([-1, 1], "0 to 3"), ([3], r"it must be \(2,\)")])
def test_lengths_that_the_tokens_do_not_have_are_refused(name: str, lengths: list[int], says: str) -> None:
    backbone = live_backbone(name, torch.float32)
    with pytest.raises(ValueError, match=f"lengths .*{says}"):
        backbone(torch.zeros((2, 3), dtype=torch.int64), lengths=torch.tensor(lengths))


@backbones
def test_the_input_state_is_not_written_to(name: str) -> None:
    backbone = live_backbone(name)
    state = detach_state(backbone(tokens(BATCH, 4)).state)
    before = map_state(torch.clone, state)
    with torch.no_grad():
        backbone(tokens(BATCH, TIME, seed=4), state)
        backbone.age(state, torch.ones(BATCH) * TINY[name].ages, torch.zeros(BATCH))
        backbone.load(state, state, torch.ones(BATCH), torch.ones(BATCH), state)
    assert state_bits_equal(state, before)


@backbones
def test_ageing_adds_up_and_may_do_nothing(name: str) -> None:
    backbone = live_backbone(name)
    state = detach_state(backbone(tokens(BATCH, 6)).state)
    zero, one = torch.zeros(BATCH), torch.ones(BATCH)
    steps, shift = torch.tensor([3.0, 0.0, 7.5]) * TINY[name].ages, torch.tensor([-0.5, -2.0, 0.0])
    with torch.no_grad():
        assert_same_state(name, backbone.age(state, zero, zero), state, 1e-12)
        twice = backbone.age(backbone.age(state, steps, shift), steps, shift)
        assert_same_state(name, backbone.age(state, 2 * steps, 2 * shift), twice, 1e-12)
        assert_same_state(name, backbone.load(state, state, one, zero, state), state, 1e-12)


@backbones
def test_a_memory_that_steps_cannot_age_raises(name: str) -> None:
    backbone = live_backbone(name)
    state, steps, shift = backbone.init_state(BATCH), torch.ones(BATCH), torch.zeros(BATCH)
    if TINY[name].ages:
        backbone.age(state, steps, shift)
    else:
        with pytest.raises(ValueError, match="cannot be aged by steps"):
            backbone.age(state, steps, shift)


@backbones
@pytest.mark.parametrize("file", ["x.pth", "folder"])
def test_files_hold_it_whole(name: str, file: str, tmp_path: Path) -> None:
    backbone = live_backbone(name, torch.float32)
    save_backbone(backbone, tmp_path / file)
    loaded = load_backbone(tmp_path / file)
    assert loaded.config == backbone.config
    assert backbone_fingerprint(loaded) == backbone_fingerprint(backbone) == checkpoint_fingerprint(tmp_path / file)
    with torch.no_grad():
        assert torch.equal(loaded(tokens(BATCH, TIME)).logits, backbone(tokens(BATCH, TIME)).logits)
    convert(tmp_path / file, tmp_path / "there")
    convert(tmp_path / "there", tmp_path / "back.pth")
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            load_backbone(tmp_path / "back.pth").state_dict().values(), loaded.state_dict().values(), strict=True
        )
    )
