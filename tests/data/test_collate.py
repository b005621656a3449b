"""Batches: padding, weights and the places where the state may be perturbed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from prosg.data.collate import collate
from prosg.data.encode import EncodedRow, encode_row, replay_prompt
from prosg.data.synthetic import PLAIN, Difficulty, make_rows
from support.tokenizers import CharacterTokenizer


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
        "first_end": [0, 0],
        "story_end": [2, 1],
        "row_ids": [11, 12],
        "open": [False, False],
    }
    kinds = {name: value.dtype for name, value in batch.items()}
    assert kinds.pop("weights") == torch.float32 and kinds.pop("open") == torch.bool
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


def test_another_turns_words_carry_no_weight_and_its_state_is_left_alone() -> None:
    rows = [row for case in (Difficulty(turns=(2, 2)), PLAIN) for row in make_rows(["code"], 3, 1, difficulty=case)]
    encoded = [encode_row(row, CharacterTokenizer()) for row in rows]
    batch = collate(encoded, 3.0)
    for i, (row, encoded_row) in enumerate(zip(rows, encoded, strict=True)):
        starts = [*(stage.start for stage in row.stages), len(row.answer)]
        for stage, (start, end) in zip(row.stages, pairwise(starts), strict=True):
            weight = 0.0 if stage.given else 3.0 if stage is row.stages[-1] else 1.0
            assert batch["weights"][i, start:end].unique().tolist() == [weight]
        assert int(batch["story_end"][i]) == (0 if encoded_row.has_turns else encoded_row.late_start)
