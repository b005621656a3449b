"""What training does to the state: draws that belong to rows, and each perturbation as its docstring says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.core.rng import uniforms
from prosg.core.state import State, detach_state, join_states, take_rows
from prosg.core.update import Update, take_update_rows
from prosg.model.prosg import ProSG
from prosg.ops.wkv4 import KERNELS, WKV4Memory
from prosg.training.config import Perturbation
from prosg.training.perturbation import Draws, Perturber, change_state, draw, loss_weights
from prosg.training.recipes import RECIPES
from prosg.training.state_bank import StateBank
from support.models import TINY, assert_near, assert_same_state, live_backbone, live_model, state_bits_equal, tokens
from support.two_passes import touch

EVERYTHING = Perturbation(wipe_first=0.5, wipe_last=0.5, swap=0.3, load=0.5, cut=0.5)
IDS = torch.tensor([7, 2**62 + 1, 30, 4, 11])
LATE = torch.tensor([10, 40, 3, 25, 1])


def columns(draws: Draws) -> list[Tensor]:
    return [draws.swap, draws.wipe, *draws.prompt_end, *draws.answer, draws.position, draws.start, draws.start_row]


# -- random draws


def test_numbers_belong_to_seed_step_row_and_column_alone() -> None:
    ids = IDS.numpy()
    table = uniforms(3, 8, ids, 6)
    assert np.array_equal(table[[4, 0]], uniforms(3, 8, ids[[4, 0]], 6))
    assert np.array_equal(table[:, :2], uniforms(3, 8, ids, 2))
    for other in (uniforms(4, 8, ids, 6), uniforms(3, 9, ids, 6), uniforms(3, 8, ids + 1, 6)):
        assert not np.isin(other, table).any()
    assert np.array_equal(uniforms(-1, 0, ids, 1), uniforms(2**64 - 1, 0, ids, 1))


def test_numbers_are_uniform_and_stay_below_one_in_fp32() -> None:
    table = uniforms(0, 0, np.arange(100_000), 2)
    assert abs(table.mean() - 0.5) < 0.005
    assert np.abs(np.histogram(table, 20, (0, 1))[0] / table.size - 0.05).max() < 0.002
    assert abs(np.corrcoef(table.T)[0, 1]) < 0.01
    assert np.array_equal(table.astype(np.float32).astype(np.float64), table)
    assert table.max() < 1


def test_draws_do_not_depend_on_the_batch() -> None:
    whole = draw(EVERYTHING, 5, 12, 0.3, IDS, LATE)
    order = torch.tensor([3, 1, 4])
    some = draw(EVERYTHING, 5, 12, 0.3, IDS[order], LATE[order])
    for all_rows, few in zip(columns(whole), columns(some), strict=True):
        assert torch.equal(all_rows[order], few)
    again = draw(EVERYTHING, 5, 12, 0.3, IDS, LATE)
    assert all(torch.equal(a, b) for a, b in zip(columns(whole), columns(again), strict=True))
    for seed, step in ((6, 12), (5, 13)):
        assert not torch.equal(draw(EVERYTHING, seed, step, 0.3, IDS, LATE).prompt_end.shift, whole.prompt_end.shift)


def test_draws_have_the_frequencies_and_ranges_that_are_asked_for() -> None:
    ids, late = torch.arange(20_000), torch.full((20_000,), 11)
    p = Perturbation(
        wipe_first=0.9, wipe_last=0.1, swap=0.2, age=0.4, age_steps=150.0, load_story=0.3, weakest=-6.0, load_weight=2.0
    )
    for progress, wiped in ((0.0, 0.9), (0.5, 0.5), (1.0, 0.1)):
        d = draw(p, 0, 0, progress, ids, late)
        assert float(d.wipe.float().mean()) == pytest.approx(wiped, abs=0.02)
    assert float(d.swap.float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(d.prompt_end.age.float().mean()) == pytest.approx(0.4 * 0.9, abs=0.02)
    assert not (d.prompt_end.age & d.wipe).any()
    assert float(d.answer.load.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(d.answer.load[d.wipe].float().mean()) == pytest.approx(0.3, abs=0.03)  # wiped rows are loaded, too
    assert not d.prompt_end.load.any()
    assert not d.answer.age.any()
    for values, low, high in (
        (d.prompt_end.steps, 0, 150),
        (d.prompt_end.shift, -6, 0),
        (d.answer.weight.log(), 0, 2),
        (d.answer.bank_row, 0, 63),
        (d.position, 1, 10),
    ):
        assert low <= float(values.min()) < low + 0.02 * (high - low) + 0.5
        assert high - 0.02 * (high - low) - 0.5 < float(values.max()) <= high
    counts = torch.bincount(d.position, minlength=11)[1:].float() / 20_000
    assert torch.allclose(counts, torch.full((10,), 0.1), atol=0.01)
    # Independent of one another: a row that is wiped is as often loaded, and with the same weights.
    assert abs(float(torch.corrcoef(torch.stack([d.prompt_end.shift, d.answer.shift]))[0, 1])) < 0.02


def test_a_place_in_the_story_lies_before_the_last_stage() -> None:
    p = Perturbation(load_story=1.0)
    for step in range(50):
        d = draw(p, 0, step, 0.0, IDS, LATE)
        assert ((d.position >= 1) & (d.position <= (LATE - 1).clamp(min=1))).all()
        assert d.answer.load.tolist() == [True, True, True, True, False]  # the last row has no such place


# -- perturbations


def full_state(name: str = "rwkv4") -> tuple[Any, State]:
    backbone = live_backbone(name)
    return backbone, detach_state(backbone(tokens(3, 6)).state)


@pytest.mark.parametrize("name", [name for name in TINY if name.startswith("rwkv4")])
def test_rwkv4_ages_as_if_nothing_had_been_written(name: str) -> None:
    """Ageing by k steps is k steps of the recurrence with an input of weight e^-inf."""
    backbone, state = full_state(name)
    k = 7
    shift = torch.tensor([0.0, -1.5, -6.0]).double()
    aged = backbone.age(state, torch.full((3,), float(k)), shift)
    for block, before, after in zip(backbone.blocks, state, aged, strict=True):
        w, u = -torch.exp(block.att.time_decay), block.att.time_first
        silence = torch.full((3, k, before.num.shape[1]), -1e30).double()
        memory = WKV4Memory(before.num, before.den, before.top)
        _, stepped = KERNELS["scan"](w, u, silence, torch.randn_like(silence), memory)
        # The same mean, and a weight that e^shift is left of.
        assert_near(after.num / after.den, stepped.num / stepped.den, 1e-12)
        weight = stepped.den.log() + stepped.top + shift.unsqueeze(1)
        assert_near(after.den.log() + after.top, weight, 1e-12)
        assert torch.equal(after.att_shift, before.att_shift)
        assert torch.equal(after.ffn_shift, before.ffn_shift)


@pytest.mark.parametrize("name", [name for name in TINY if name.startswith("rwkv4")])
def test_rwkv4_loads_by_its_formula(name: str) -> None:
    """(num, den) <- f (num, den) + W den0 (num_b / den_b, 1), all times e^top; den0 is the reference's."""
    backbone, state = full_state(name)
    bank = detach_state(backbone(tokens(3, 40, seed=8)).state)
    keep, weight = torch.tensor([1.0, 0.1, 0.5]).double(), torch.tensor([1.0, 7.0, 2.0]).double()
    wiped = backbone.init_state(3)
    for given in (state, wiped):
        loaded = backbone.load(given, bank, keep, weight, state)
        for own, strange, reference, after in zip(given, bank, state, loaded, strict=True):
            size, den0 = own.top.exp(), reference.den * reference.top.exp()
            added = weight.unsqueeze(1) * den0
            num = keep.unsqueeze(1) * own.num * size + added * strange.num / strange.den
            den = keep.unsqueeze(1) * own.den * size + added
            assert_near(after.num * after.top.exp(), num, 1e-12)
            assert_near(after.den * after.top.exp(), den, 1e-12)
            assert torch.equal(after.att_shift, own.att_shift)
            assert torch.equal(after.ffn_shift, own.ffn_shift)
    # A wiped memory becomes the other text's mean, as heavy as its own was times W.
    for strange, after in zip(bank, loaded, strict=True):
        assert_near(after.num / after.den, strange.num / strange.den, 1e-12)


def test_only_the_rows_that_were_drawn_are_touched() -> None:
    backbone, state = full_state()
    bank = detach_state(backbone(tokens(2, 20, seed=8)).state)
    steps, shift = torch.tensor([4.0, 9.0, 5.0]), torch.tensor([-1.0, -2.0, -3.0])
    weight, bank_row = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 1, 0])
    age, load = torch.tensor([False, True, False]), torch.tensor([True, False, False])
    here = touch(3, age=age, steps=steps, shift=shift, load=load, weight=weight, bank_row=bank_row)
    touched = change_state(backbone, state, here, bank, state)
    aged = backbone.age(state, steps, shift)
    loaded = backbone.load(state, take_rows(bank, bank_row), shift.exp(), weight, state)
    parts = [take_rows(s, torch.tensor([row])) for row, s in enumerate((loaded, aged, state))]
    assert state_bits_equal(touched, join_states(parts))
    assert state_bits_equal(change_state(backbone, state, touch(3), None, state), state)


def test_a_first_stage_that_is_read_from_a_perturbed_state_may_count_less() -> None:
    off = torch.zeros(5, dtype=torch.bool)

    def rows(*which: int) -> Tensor:
        return torch.tensor([row in which for row in range(5)])

    draws = draw(EVERYTHING, 5, 12, 0.3, IDS, LATE)
    draws = draws._replace(
        swap=off,
        wipe=rows(4),
        prompt_end=draws.prompt_end._replace(load=rows(0), age=off),
        answer=draws.answer._replace(load=rows(1, 3), age=off),
        position=torch.tensor([0, 2, 0, 1, 0]),
    )
    weights = torch.tensor([[1.0, 1, 1, 1, 3, 3]] * 5)
    weights[3, 3:] = 0  # unscored
    changed = loss_weights(draws, weights, torch.tensor([5, 5, 5, 5, 0]), 0.5)
    assert changed[0].tolist() == [0.5, 0.5, 0.5, 0.5, 1.5, 3]  # up to the second stage's text
    assert changed[1].tolist() == [1, 1, 1, 0.5, 1.5, 3]  # what is read behind the place of the change
    assert torch.equal(changed[2], weights[2])  # no perturbation
    assert changed[3].tolist() == [1, 1, 0.5, 0, 0, 0]
    assert torch.equal(changed[4], weights[4])  # no second stage


def test_recipes_are_what_the_experiments_used() -> None:
    plus, durable = RECIPES["plus"].perturbation, RECIPES["durable"].perturbation
    assert (plus.wipe_first, plus.wipe_last, plus.load, plus.load_story) == (0.9, 0.05, 0.5, 0.5)
    assert (plus.bank_size, plus.bank_rows, plus.bank_restart) == (64, 16, 0.06)
    assert (plus.age, plus.cut, plus.swap) == (0, 0, 0)
    assert (plus.first_weight, durable.first_weight) == (0.2, 1)
    assert (plus.weakest, plus.load_weight) == (-6.0, 2.0)
    assert (durable.age, durable.age_steps, durable.cut) == (0.4, 150, 0.4)
    assert (durable.wipe_first, durable.wipe_last, durable.swap, durable.load) == (0, 0, 0, 0)
    assert not RECIPES["plain"].perturbation.active
    assert not RECIPES["paper"].perturbation.active
    assert plus.uses_bank and not durable.uses_bank


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wipe_first": 1.5}, "perturbation.wipe_first is 1.5, must be a probability"),
        ({"cut_steps": -1.0}, "perturbation.cut_steps is -1.0, must not be negative"),
        ({"weakest": 1.0}, "perturbation.weakest is 1.0, must be 0 or less"),
        ({"load": 0.5, "age": 0.5}, "a place is aged or loaded, not both"),
        ({"load_story": 0.5, "cut": 0.5}, "a place is aged or loaded, not both"),
        ({"bank_rows": 65}, "perturbation.bank_rows is 65, must be 1 to bank_size .64."),
    ],
)
def test_perturbations_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Perturbation(**changes)


# -- the bank


SMALL = Perturbation(load=0.5, bank_size=6, bank_rows=3, bank_restart=0.5)


def batch(model: ProSG, seed: int) -> tuple[Tensor, Tensor, EncodedPrompt]:
    lengths = torch.tensor([5, 2, 0, 4])
    return tokens(4, 5, seed=seed), lengths, model.encode(tokens(4, 6, seed=seed + 100))


def grown(model: ProSG, steps: range, bank: StateBank | None = None) -> StateBank:
    bank = bank or StateBank(SMALL, seed=1)
    for step in steps:
        stories, lengths, encoded = batch(model, step)
        bank.grow(model.backbone, step, stories, lengths, encoded.state, encoded.update)
    return bank


def same_bank(a: StateBank, b: StateBank) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("module", ["plus", "paper", None])
def test_a_bank_is_a_function_of_the_steps_and_survives_a_checkpoint(module: str | None) -> None:
    model = live_model("rwkv4", module)
    whole = grown(model, range(6))
    assert same_bank(whole, grown(model, range(6)))
    half = grown(model, range(3))
    resumed = StateBank(SMALL, seed=1)
    resumed.load_state_dict(half.state_dict(), model.backbone)
    assert same_bank(resumed, half)
    assert same_bank(grown(model, range(3, 6), resumed), whole)
    other = StateBank(SMALL, seed=2)
    assert not same_bank(grown(model, range(6), other), whole)


def test_an_empty_bank_is_an_empty_checkpoint() -> None:
    model = live_model("rwkv4", "plus")
    assert StateBank(SMALL, seed=1).state_dict() == {}
    bank = grown(model, range(1))
    bank.load_state_dict({}, model.backbone)
    assert bank.state is None
    assert bank.update is None


def test_a_bank_begins_with_the_prompts_over_and_over() -> None:
    model = live_model("rwkv4", "plus")
    _, _, encoded = batch(model, 0)
    bank = StateBank(SMALL, seed=1)
    bank.fill(encoded.state, encoded.update)
    rows = torch.tensor([0, 1, 2, 3, 0, 1])
    assert bank.state is not None
    assert bank.update is not None
    assert state_bits_equal(bank.state, take_rows(encoded.state, rows))
    for site, delta in take_update_rows(encoded.update or {}, rows).items():
        assert torch.equal(bank.update[site].dense(), delta.dense())


def test_a_bank_that_begins_empty_has_read_a_story_in_every_row() -> None:
    model = live_model("rwkv4", None)
    bank = StateBank(replace(SMALL, bank_start="empty", bank_restart=0.0), seed=1)
    stories, lengths, _ = batch(model, 0)
    bank.grow(model.backbone, 0, stories, lengths, model.init_state(4), None)
    assert bank.state is not None
    read = [model.backbone(stories[i : i + 1, :n]).state if n else model.init_state(1) for i, n in enumerate(lengths)]
    for row in range(6):
        here = take_rows(bank.state, torch.tensor([row]))
        assert any(all(map(torch.allclose, flat(here), flat(state))) for state in read)
    before = bank.state
    bank.grow(model.backbone, 1, stories, lengths, model.init_state(4), None)
    same = [
        all(torch.equal(a[row], b[row]) for a, b in zip(flat(before), flat(bank.state), strict=True))
        for row in range(6)
    ]
    assert sum(same) >= 3  # bank_rows read on


def flat(state: State) -> list[Tensor]:
    return [leaf for layer in state for leaf in layer]


def test_prompts_start_from_what_other_texts_left() -> None:
    model = live_model("rwkv4", None)
    bank = detach_state(model.backbone(tokens(3, 20, seed=8)).state)
    p = Perturbation(start=0.5, bank_size=3, bank_rows=1)
    draws = draw(p, 0, 0, 0.0, torch.arange(8), torch.full((8,), 5))
    assert 0 < int(draws.start.sum()) < 8
    state = Perturber(draws, bank).at_start(model)
    assert state is not None
    for row in range(8):
        source = take_rows(bank, draws.start_row[row : row + 1]) if draws.start[row] else model.init_state(1)
        assert state_bits_equal(take_rows(state, torch.tensor([row])), source)
    assert Perturber(draws._replace(start=draws.start & False), bank).at_start(model) is None


class Diary:
    """A bank row's history by hand: which prompt it began with, and what it has read since."""

    def __init__(self, encoded: EncodedPrompt, row: int) -> None:
        self.begin = encoded.take(torch.tensor([row]))
        self.read: list[Tensor] = []

    def state(self, model: ProSG, update: Update | None) -> State:
        if not sum(piece.shape[1] for piece in self.read):
            return self.begin.state
        with torch.no_grad():
            return model.backbone(torch.cat(self.read, 1), self.begin.state, update=update).state


def test_each_row_grows_under_the_update_that_it_was_born_with() -> None:
    """Also while the module is trained: here its learned B changes between the steps."""
    model = live_model("rwkv4", "paper")
    bank, diaries = StateBank(SMALL, seed=1), []
    for step in range(8):
        stories, lengths, encoded = batch(model, step)
        # Factors as the trainer passes them: B shared by the rows, and with a history.
        update = {s: d._replace(b=d.b.clone().requires_grad_()) for s, d in (encoded.update or {}).items()}
        bank.grow(model.backbone, step, stories, lengths, encoded.state, update)
        born = EncodedPrompt(
            encoded.state,
            {s: d._replace(b=d.rows().b.clone()) for s, d in (encoded.update or {}).items()},
            encoded.logits,
        )
        if not diaries:
            diaries = [Diary(born, row % 4) for row in range(6)]
        order = uniforms(1, step, np.arange(6), 3)
        for row in np.argsort(order[:, 0])[:3]:
            source = int(order[row, 1] * 4)
            if order[row, 2] < SMALL.bank_restart:
                diaries[row] = Diary(born, source)
            diaries[row].read.append(stories[source : source + 1, : lengths[source]])
        with torch.no_grad():
            for parameter in model.synthesizer.parameters():  # a training step
                parameter += 0.05
    assert bank.state is not None
    assert bank.update is not None
    assert len({len(d.read) for d in diaries}) > 1
    for row, diary in enumerate(diaries):
        index = torch.tensor([row])
        assert_same_state("rwkv4", take_rows(bank.state, index), diary.state(model, diary.begin.update), 1e-10)
        for site, delta in take_update_rows(bank.update, index).items():
            assert_near(delta.dense(), diary.begin.update[site].dense(), 1e-12)
    assert not any(leaf.requires_grad for leaf in bank.state_dict().values())
