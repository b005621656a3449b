"""Rows as token ids: stages located among the tokens, and rows that are too long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prosg.data.encode import LONGEST_TOKEN, encode_row, encode_rows, row_number, truncate_row
from prosg.data.row import Row, row_from_dict
from prosg.data.synthetic import KINDS, make_rows
from prosg.tokenizers.bpe import train_bpe
from prosg.tokenizers.json_file import JsonTokenizer
from prosg.tokenizers.special import SpecialTokens
from support.tokenizers import CharacterTokenizer


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows(tuple(KINDS), 60)


@pytest.fixture(scope="module")
def tokenizer(rows: list[Row]) -> JsonTokenizer:
    return train_bpe((text for row in rows for text in (row.prompt, row.answer)), 600)


def test_prompt_and_answer_are_tokenised_apart_and_the_end_is_added(rows: list[Row], tokenizer: JsonTokenizer) -> None:
    for row in rows:
        encoded = encode_row(row, tokenizer, SpecialTokens((7,)))
        assert encoded.prompt == tokenizer.encode(row.prompt)
        assert encoded.answer == [*tokenizer.encode(row.answer), 7]
        assert (encoded.id, encoded.row_id) == (row.id, row_number(row.id))
        assert encoded.tokens == len(encoded.prompt) + len(encoded.answer)


def test_the_late_stage_begins_with_its_marker(rows: list[Row], tokenizer: JsonTokenizer) -> None:
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
        if len(row.stages) > 1:
            after = tokenizer.decode(encoded.answer[encoded.first_end - 1 : -1])
            assert after == row.answer[row.stages[1].start :]
        else:
            assert encoded.first_end == 0


def test_a_token_across_the_boundary_belongs_to_the_late_stage() -> None:
    stages = [
        {"instruction": "", "check": {"type": "sentences"}, "start": start, "marker": marker}
        for start, marker in ((0, ""), (6, "x"))
    ]
    row = row_from_dict({"prompt": "p", "answer": "ééab. xyz", "stages": stages})

    class Words(CharacterTokenizer):
        def encode(self, text: str) -> list[int]:
            return [1]

        def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
            return [5, 6, 7, 8], [(0, 1), (0, 1), (1, 5), (5, 9)]

    assert encode_row(row, Words()).late_start == 3


def test_row_numbers_fit_a_signed_64_bit_integer() -> None:
    numbers = {row_number(str(index)) for index in range(1000)}
    assert len(numbers) == 1000
    assert max(numbers) < 2**63


def test_cutting_keeps_the_question_and_the_end() -> None:
    row = encode_row(row_from_dict({"prompt": "0123456789", "answer": "abcdef"}), CharacterTokenizer())
    assert row.tokens == 17
    for size in (16, 12, 8):
        short = truncate_row(row, size)
        assert short.tokens == size
        assert short.answer == row.answer
        assert short.prompt == row.prompt[-(size - 7) :]
    for size, answer in ((7, "abcd"), (4, "ab"), (2, "a")):
        short = truncate_row(row, size)
        assert short.tokens == size
        assert short.answer == CharacterTokenizer().encode(answer)
        assert short.prompt == row.prompt[-(size // 2) :]
        assert short.late_start == len(answer) * 4 // 5


def test_a_last_stage_that_is_cut_off_is_none() -> None:
    row = encode_row(row_from_dict({"prompt": "0123", "answer": "abcdefghij"}), CharacterTokenizer())
    staged = row._replace(has_stages=True, late_start=5, late_text=6)
    assert truncate_row(staged, 11)[4:7] == (5, True, 6)
    assert truncate_row(staged, 10)[4:7] == (4, False, 4)


def test_long_rows_are_counted_and_cut_only_where_it_is_asked_for() -> None:
    rows = [replace(row_from_dict({"prompt": "0123456789", "answer": "abc"}), id=str(i)) for i in range(2)]
    rows.append(row_from_dict({"id": "short", "prompt": "0", "answer": "a"}))
    encoded, too_long = encode_rows(rows, CharacterTokenizer(), max_tokens=8)
    assert ([row.id for row in encoded], too_long) == (["short"], ["0", "1"])
    encoded, too_long = encode_rows(rows, CharacterTokenizer(), max_tokens=8, truncate=True)
    assert ([row.tokens for row in encoded], too_long) == ([8, 8, 3], ["0", "1"])


class Counted(CharacterTokenizer):
    """Says how many characters it was given."""

    longest = 0

    def encode(self, text: str) -> list[int]:
        self.longest = max(self.longest, len(text))
        return super().encode(text)

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        self.longest = max(self.longest, len(text))
        return super().encode_offsets(text)


def test_what_is_cut_off_is_not_tokenized() -> None:
    tokenizer = Counted()
    long = "x" * 100 * LONGEST_TOKEN
    rows = [Row("a", long + "end", "short"), Row("b", "short", "begin" + long), Row("c", "short", "short")]
    kept, too_long = encode_rows(rows, tokenizer, max_tokens=20)
    assert [row.id for row in kept] == ["c"] and too_long == ["a", "b"]
    assert tokenizer.longest == 5
    kept, too_long = encode_rows(rows, tokenizer, max_tokens=20, truncate=True)
    assert too_long == ["a", "b"] and tokenizer.longest == 20 * LONGEST_TOKEN
    whole = [truncate_row(encode_row(row, tokenizer), 20) for row in rows[:2]]
    assert kept[:2] == whole


def test_a_stage_beyond_the_cut_is_none() -> None:
    stage = {"check": {"type": "words"}, "instruction": ""}
    data = {"prompt": "p", "answer": "a" * 10_000 + "Late: b", "stages": [{**stage, "start": 0, "marker": ""}]}
    data["stages"].append({**stage, "start": 10_000, "marker": "Late:"})
    row = row_from_dict(data)
    (kept,), _ = encode_rows([row], CharacterTokenizer(), max_tokens=20, truncate=True)
    assert kept == truncate_row(encode_row(row, CharacterTokenizer()), 20) and not kept.has_stages
