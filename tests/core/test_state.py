"""Rows of a state: taken, joined, replaced, chosen, whatever the layers' tuples are."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from prosg.core.state import (
    State,
    bound_state,
    choose_rows,
    detach_state,
    join_states,
    limit_memory,
    map_state,
    memory_limit,
    no_pull,
    pulling_rows,
    replace_rows,
    take_rows,
    write_rows,
)


class Shift(NamedTuple):
    shift: Tensor


class Matrix(NamedTuple):
    shift: Tensor
    memory: Tensor


def random_state(batch: int) -> State:
    """Layers of different kinds, leaves of different rank."""
    return (Shift(torch.randn(batch, 3)), Matrix(torch.randn(batch, 2), torch.randn(batch, 2, 4, 5)))


def leaves(state: State) -> list[Tensor]:
    return [leaf for layer in state for leaf in layer]


def test_take_and_join() -> None:
    one, two = random_state(3), random_state(2)
    taken = take_rows(one, torch.tensor([2, 2, 0, 1]))
    assert [type(layer) for layer in taken] == [Shift, Matrix]
    assert all(torch.equal(a, b[[2, 2, 0, 1]]) for a, b in zip(leaves(taken), leaves(one), strict=True))
    joined = join_states([one, two])
    back = [take_rows(joined, torch.arange(3)), take_rows(joined, torch.arange(3, 5))]
    for mine, original in zip(back, (one, two), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(leaves(mine), leaves(original), strict=True))


def test_replace_in_the_order_given() -> None:
    one, new = random_state(4), random_state(2)
    before = map_state(torch.clone, one)
    replaced = replace_rows(one, torch.tensor([3, 1]), new)
    for old, got, expected, untouched in zip(*map(leaves, (one, replaced, new, before)), strict=True):
        assert torch.equal(got[3], expected[0])
        assert torch.equal(got[1], expected[1])
        assert torch.equal(got[[0, 2]], old[[0, 2]])
        assert torch.equal(old, untouched)


def test_a_row_keeps_its_type_when_replaced() -> None:
    wide = map_state(torch.Tensor.double, random_state(2))
    replaced = replace_rows(wide, torch.tensor([0]), random_state(1))
    assert {leaf.dtype for leaf in leaves(replaced)} == {torch.float64}


def test_choose_row_by_row() -> None:
    yes, no = random_state(3), random_state(3)
    chosen = choose_rows(torch.tensor([True, False, True]), yes, no)
    for got, a, b in zip(*map(leaves, (chosen, yes, no)), strict=True):
        assert torch.equal(got[[0, 2]], a[[0, 2]])
        assert torch.equal(got[1], b[1])


def test_states_of_different_depth_do_not_mix() -> None:
    with pytest.raises(ValueError, match="shorter"):
        join_states([random_state(1), random_state(1)[:1]])


def test_detached_states_have_no_history() -> None:
    attached = map_state(lambda leaf: leaf.requires_grad_() * 2, random_state(1))
    assert not any(leaf.requires_grad for leaf in leaves(detach_state(attached)))


def test_rows_of_different_length_meet_at_their_ends() -> None:
    short, long = (Shift(torch.full((1, 2), 2.0)),), (Shift(torch.ones(2, 3)),)
    assert join_states([short, long])[0].shift.tolist() == [[0, 2, 2], [1, 1, 1], [1, 1, 1]]


def test_rows_are_written_in_place_unless_they_are_longer() -> None:
    slab = random_state(4)
    new = random_state(2)
    written = write_rows(slab, slice(1, 3), new)
    for ours, old, rows in zip(*map(leaves, (written, slab, new)), strict=True):
        assert ours is old and torch.equal(ours[1:3], rows)
    wider = write_rows((Shift(torch.ones(3, 1)),), slice(2, 3), (Shift(torch.full((1, 2), 2.0)),))
    assert wider[0].shift.tolist() == [[0, 1], [0, 1], [2, 2]]


def test_a_memory_is_kept_within_bounds_by_powers_of_two() -> None:
    state = random_state(3)
    assert bound_state(state) is state
    (shift, matrix), large = state, torch.ones(3, 2, 1, 1)
    large[1, 0], large[2, 1] = 2.0**90, 2.0**41
    grown = (shift, matrix._replace(memory=matrix.memory * large))
    bounded = bound_state(grown)
    assert torch.equal(bounded[0].shift, shift.shift) and torch.equal(bounded[1].shift, matrix.shift)
    memory = bounded[1].memory
    assert torch.equal(memory[0], matrix.memory[0]) and torch.equal(memory[1, 1], matrix.memory[1, 1])
    assert 2.0**39 <= memory[1, 0].abs().max() < 2.0**40 and memory[2, 1].abs().max() < 2.0**40
    share = (memory[1, 0] / matrix.memory[1, 0]).flatten()
    assert torch.equal(share, share[:1].expand_as(share)) and torch.frexp(share[0]).mantissa == 0.5


def test_what_is_no_number_is_left_as_it_is() -> None:
    memory = torch.full((2, 2, 4, 5), 2.0**50)
    memory[0, 0, 0, 0], memory[1, 1, 0, 0] = torch.inf, torch.nan
    bounded = bound_state((Matrix(torch.zeros(2, 2), memory),))[0].memory
    assert bounded[0, 0].isinf().sum() == 1 and bounded[1, 1].isnan().sum() == 1
    assert bounded[0, 1].isfinite().all()


def test_rows_that_an_anchor_pulls_whatever_its_tensors_are() -> None:
    """Numbers of rows alone, empty axes and transposed memories among them."""
    anchor = (Matrix(torch.tensor([0, 0, 3]), torch.zeros(3, 2, 0, 4)), random_state(3)[1])
    turned = anchor[1]._replace(memory=anchor[1].memory.mT)
    for leaf in turned:
        leaf[1:] = 0.0
    assert pulling_rows((anchor[0], turned)).tolist() == [True, False, True]
    assert not pulling_rows(no_pull(anchor, 2)).any()


def test_a_memory_is_shrunk_to_its_limit() -> None:
    state = random_state(3)
    memory = state[1].memory
    norms = memory.flatten(2).norm(dim=2)
    limit = memory_limit((state[1], state[1]))
    assert limit.shape == (3, 2)
    torch.testing.assert_close(limit, 8 * norms.amax(1, keepdim=True).expand(3, 2))
    grown = (Matrix(state[1].shift, memory * torch.tensor([100.0, 1, 100]).view(3, 1, 1, 1)),)
    before = map_state(torch.clone, grown)
    one = limit[:, :1].clone()
    one[2] = 0.0  # none
    limit_memory(grown, one)
    found = grown[0].memory.flatten(2).norm(dim=2)
    torch.testing.assert_close(found[0], torch.minimum(one[0].expand(found.shape[1]), 100 * norms[0]))
    torch.testing.assert_close(grown[0].memory[0, 0] / found[0, 0], memory[0, 0] / norms[0, 0])
    assert torch.equal(grown[0].memory[1:], before[0].memory[1:]) and torch.equal(grown[0].shift, before[0].shift)
    grown = map_state(torch.clone, before)
    limit_memory(grown, limit[:, :1], torch.tensor([2]))
    assert torch.equal(grown[0].memory[:2], before[0].memory[:2])
    assert float(grown[0].memory[2].flatten(1).norm(dim=1).max()) <= 1.001 * float(limit[2, 0])
