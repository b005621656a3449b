"""Batches of a run: a function of the seed alone, however many parts and processes read them."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from prosg.data.sampler import LengthBatches, StepBatches


def step_rows(batches: StepBatches, parts: int) -> list[list[int]]:
    flat = list(batches)
    assert len(flat) == len(batches)
    return [list(chain(*flat[start : start + parts])) for start in range(0, len(flat), parts)]


def test_a_steps_rows_do_not_depend_on_accumulation() -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(103)]
    whole = step_rows(StepBatches(lengths, 8, 1, 30, seed=3), 1)
    assert step_rows(StepBatches(lengths, 8, 4, 30, seed=3), 4) == whole
    assert {len(rows) for rows in whole} == {8}
    epoch = list(chain(*whole[:12]))  # 12 full batches; the 7 rows that are left wait for another epoch's shuffle
    assert len(set(epoch)) == len(epoch)
    assert step_rows(StepBatches(lengths, 8, 1, 30, seed=4), 1) != whole


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_a_steps_rows(accumulation: int, processes: int) -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(103)]
    whole = list(StepBatches(lengths, 24, accumulation, 9, 3))
    shares = [list(StepBatches(lengths, 24, accumulation, 9, 3, process, processes)) for process in range(processes)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole
    assert {len(part) for share in shares for part in share} == {24 // accumulation // processes}


def test_rows_of_like_lengths_come_together() -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(400)]
    spread = [
        max(lengths[i] for i in rows) - min(lengths[i] for i in rows) for rows in StepBatches(lengths, 8, 1, 50, 0)
    ]
    assert max(spread) <= 2


def test_few_rows_make_one_smaller_batch() -> None:
    assert sorted(step_rows(StepBatches([3, 1, 2], 32, 2, 2, seed=0), 2)[1]) == [0, 1, 2]


LENGTHS = [(7 * index) % 101 for index in range(1003)]


def test_every_row_comes_once_per_epoch_in_batches_of_like_lengths() -> None:
    batches = LengthBatches(LENGTHS, 16, seed=1, window=20)
    drawn = list(batches)
    assert len(drawn) == len(batches) == 63
    assert sorted(index for batch in drawn for index in batch) == list(range(1003))
    assert Counter(map(len, drawn)) == {16: 62, 11: 1}
    spread = [max(LENGTHS[i] for i in batch) - min(LENGTHS[i] for i in batch) for batch in drawn if len(batch) == 16]
    assert sum(spread) / len(spread) < 12


def test_the_incomplete_batch_can_be_left_out() -> None:
    batches = LengthBatches(LENGTHS, 16, drop_last=True)
    assert {len(batch) for batch in batches} == {16}
    assert len(list(batches)) == len(batches) == 62


def test_batches_depend_on_seed_epoch_and_size_only() -> None:
    def drawn(seed: int, epoch: int) -> list[list[int]]:
        batches = LengthBatches(LENGTHS, 16, seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)


def test_batches_that_cannot_be_are_errors() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        LengthBatches(LENGTHS, 0)
    with pytest.raises(ValueError, match="0 rows"):
        LengthBatches([], 4)
    with pytest.raises(ValueError, match="do not fill one batch"):
        LengthBatches([1, 2], 4, drop_last=True)
