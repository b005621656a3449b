from collections import Counter

import pytest
import torch

from prosg.data.collate import collate
from prosg.data.encode import EncodedRow, encode_row, encode_rows, replay_prompt, row_number
from prosg.data.row import Row, row_from_dict
from prosg.data.sampler import LengthBatches
from prosg.data.synthetic import KINDS, make_rows
from prosg.tokenizers.bpe import Tokenizer, train_bpe


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows(tuple(KINDS), 200)


@pytest.fixture(scope="module")
def tokenizer(rows: list[Row]) -> Tokenizer:
    return train_bpe((text for row in rows for text in (row.prompt, row.answer)), 600)


def test_prompt_and_answer_are_tokenised_apart_and_the_end_is_added(rows: list[Row], tokenizer: Tokenizer) -> None:
    for row in rows:
        encoded = encode_row(row, tokenizer, end_id=7)
        assert encoded.prompt == tokenizer.encode(row.prompt)
        assert encoded.answer == [*tokenizer.encode(row.answer), 7]
        assert (encoded.id, encoded.row_id) == (row.id, row_number(row.id))
        assert encoded.tokens == len(encoded.prompt) + len(encoded.answer)


def test_the_late_stage_begins_with_its_marker(rows: list[Row], tokenizer: Tokenizer) -> None:
    for row in rows:
        encoded = encode_row(row, tokenizer)
        assert encoded.has_stages == bool(row.stages)
        if row.stages:
            last = row.stages[-1]
            assert tokenizer.decode(encoded.answer[encoded.late_start : -1]) == row.answer[last.start :]
            text = tokenizer.decode(encoded.answer[encoded.late_text : -1])
            assert last.marker + text == row.answer[last.start :]
        else:
            assert encoded.late_start == encoded.late_text == (len(encoded.answer) - 1) * 4 // 5


def test_a_token_across_the_boundary_belongs_to_the_late_stage() -> None:
    stages = [
        {"instruction": "", "check": {"type": "sentences"}, "start": start, "marker": marker}
        for start, marker in ((0, ""), (6, "x"))
    ]
    row = row_from_dict({"prompt": "p", "answer": "ééab. xyz", "stages": stages})

    class Words:
        def encode(self, text: str) -> list[int]:
            return [1]

        def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
            return [5, 6, 7, 8], [(0, 1), (0, 1), (1, 5), (5, 9)]

    assert encode_row(row, Words()).late_start == 3


def test_rows_too_long_are_reported(rows: list[Row], tokenizer: Tokenizer) -> None:
    kept, too_long = encode_rows(rows, tokenizer, max_tokens=60)
    assert kept
    assert too_long
    assert [row.id for row in rows if row.id in too_long] == too_long
    assert {row.id for row in kept} | set(too_long) == {row.id for row in rows}
    assert max(row.tokens for row in kept) <= 60
    assert encode_rows(rows, tokenizer)[1] == []


def test_collate_pads_on_the_right_and_weighs_the_late_stage() -> None:
    batch = collate(
        [
            EncodedRow(11, "a", [1, 2, 3], [4, 5, 6, 0], 2, True, 3),
            EncodedRow(12, "b", [9], [8, 0], 1, False, 1),
        ],
        3.0,
    )
    assert {name: value.tolist() for name, value in batch.items()} == {
        "prompt": [[1, 2, 3], [9, 0, 0]],
        "prompt_lengths": [3, 1],
        "answer": [[4, 5, 6, 0], [8, 0, 0, 0]],
        "answer_lengths": [4, 2],
        "weights": [[1.0, 1.0, 3.0, 3.0], [1.0, 1.0, 0.0, 0.0]],
        "late_start": [2, 1],
        "late_text": [3, 1],
        "story_end": [2, 1],
        "row_ids": [11, 12],
    }
    kinds = {name: value.dtype for name, value in batch.items()}
    assert kinds.pop("weights") == torch.float32
    assert set(kinds.values()) == {torch.int64}


def test_a_replayed_prompt_stands_before_the_late_stage_and_carries_no_weight() -> None:
    row = EncodedRow(11, "a", [1, 2, 3], [4, 5, 6, 7, 0], 2, True, 3)
    again = replay_prompt(row)
    assert again.answer == [4, 5, 1, 2, 3, 6, 7, 0]
    assert (again.late_start, again.late_text) == (5, 6)
    assert collate([again], 3.0)["weights"].tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0, 3.0, 3.0, 3.0]]


def test_nothing_to_collate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        collate([], 1.0)


def test_row_numbers_fit_a_signed_64_bit_integer() -> None:
    numbers = {row_number(str(index)) for index in range(1000)}
    assert len(numbers) == 1000
    assert max(numbers) < 2**63


LENGTHS = [(7 * index) % 101 for index in range(1003)]


def test_every_row_comes_once_per_epoch_in_batches_of_like_lengths() -> None:
    batches = LengthBatches(LENGTHS, 16, seed=1, run=20)
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
