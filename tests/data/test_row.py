"""Rows: what is read from files and written to them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prosg.data.chat import as_messages
from prosg.data.row import Row, derived_id, read_rows, row_from_dict, row_to_dict, write_rows
from prosg.data.synthetic import KINDS, make_rows
from prosg.data.templates import Turn
from prosg.utils.io import write_lines
from support.generated import damaged, draws, refusal, value

STAGES = [
    {"instruction": "tell", "check": {"type": "sentences", "min": 1}, "start": 0, "marker": ""},
    {"instruction": "end", "check": {"type": "exact", "text": "End: b."}, "start": 2, "marker": "\nEnd:"},
]
GOOD = {"id": "x", "kind": "k", "prompt": "p", "answer": "a.\nEnd: b.", "stages": STAGES, "distance_words": 1}


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    rows = make_rows(tuple(KINDS), 40)
    assert write_rows(tmp_path / "new" / "rows.jsonl", rows) == 40
    assert read_rows(tmp_path / "new" / "rows.jsonl") == rows
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["rows.jsonl"]


def test_unknown_fields_are_kept_and_leaks_is_written_only_where_true() -> None:
    data = GOOD | {"source": {"by": "hand"}, "leaks": True}
    assert row_to_dict(row_from_dict(data)) == data
    assert "leaks" not in row_to_dict(row_from_dict(GOOD))


def test_a_pair_is_enough_and_gets_a_stable_id(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pair = json.dumps({"prompt": "Grüße", "answer": "ja"}, ensure_ascii=False)
    file.write_text(f"\ufeff{pair}\n\n{pair}\n", encoding="utf-8")
    first, second = read_rows(file)
    assert first == Row(derived_id("Grüße", "ja"), "Grüße", "ja")
    assert second.id == f"{first.id}-3"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": " "}, ["'prompt'", "empty"]),
        ({"answer": ""}, ["'answer'", "empty"]),
        ({"answer": None}, ["'answer'", "str", "NoneType"]),
        ({"id": 3}, ["'id'", "str", "int"]),
        ({"id": ""}, ["'id'", "empty"]),
        ({"leaks": 1}, ["'leaks'", "bool"]),
        ({"distance_words": True}, ["'distance_words'", "int", "bool"]),
        ({"distance_words": -1}, ["'distance_words'", "-1", "0 or more"]),
        ({"stages": {}}, ["'stages'", "list"]),
        ({"stages": ["x"]}, ["stage", "object"]),
        ({"stages": [STAGES[0] | {"end": 3}]}, ["end", "instruction, check, start, marker"]),
        ({"stages": [STAGES[0] | {"start": 1}]}, ["first stage", "start 0"]),
        ({"stages": [STAGES[0] | {"given": 1}]}, ["'given'", "bool"]),
        ({"stages": [STAGES[0], STAGES[1] | {"given": True}]}, ["last stage is given"]),
        ({"stages": [STAGES[0], STAGES[1] | {"start": 1}]}, ["marker", "'\\nEnd:'"]),
        ({"stages": [STAGES[0], STAGES[1] | {"start": 99}]}, ["start 99", "between 1 and 9"]),
        ({"stages": [STAGES[0], STAGES[1] | {"marker": ""}]}, ["marker", "first stage"]),
        ({"stages": [STAGES[0] | {"check": {"type": "magic"}}]}, ["'magic'", "allowed: exact"]),
    ],
)
def test_bad_rows_name_file_line_and_fault(tmp_path: Path, change: dict[str, object], words: list[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"id": "y"} | change) + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: ") as error:
        read_rows(file)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{\n", [":1:", "JSON"]),
        (b"[1]\n", [":1:", "object", "list"]),
        (b'{"prompt": "p"}\n', [":1:", "'answer'", "missing"]),
        (b'\n{"prompt": "\xff", "answer": "a"}\n', [":2:", "UTF-8"]),
        (b'{"id": "a", "prompt": "p", "answer": "a"}\n' * 2, [":2:", "'a'", "line 1"]),
        (b"\n", ["no rows"]),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, words: list[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.jsonl") as error:
        read_rows(file)
    assert all(word in str(error.value) for word in words)


def test_a_missing_file_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jsonl"):
        read_rows(tmp_path / "none.jsonl")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("old")

    def lines() -> Iterator[str]:
        yield "new"
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_lines(file, lines())
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_check_repeats_is_an_earlier_stage(tmp_path: Path) -> None:
    def stages(stage: Any, inside: bool = False) -> list[dict[str, Any]]:
        check = {"type": "repeats", "items": ["a"], "stage": stage, "after": ""}
        check = {"type": "all_of", "checks": [check]} if inside else check
        first = {"instruction": "", "check": {"type": "words"}, "start": 0, "marker": ""}
        return [first, {"instruction": "", "check": check, "start": 2, "marker": "Late"}]

    row = {"prompt": "p", "answer": "a Late b"}
    assert row_from_dict({**row, "stages": stages(0)})
    for stage, inside in ((1, False), (9, False), (-1, False), (1, True), (10**300, False)):
        with pytest.raises(ValueError, match=r"stage"):
            row_from_dict({**row, "stages": stages(stage, inside)})


def test_rows_with_halves_of_letters_can_be_written_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(r'{"prompt": "a\ud83d", "answer": "b\udc00", "more": {"\ud83d": ["\ud83d\ude00"]}}' + "\n")
    rows = read_rows(file)
    assert rows[0].prompt == "a\ufffd" and rows[0].extra == {"more": {"\ufffd": ["😀"]}}
    write_rows(tmp_path / "again.jsonl", rows)
    assert read_rows(tmp_path / "again.jsonl") == rows


def test_generated_rows_are_read_or_refused_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = {"id": "x", "prompt": "p", "answer": "a Late b", "kind": "k", "distance_words": 3, "leaks": False}
    good["stages"] = [{"instruction": "", "check": {"type": "words", "min": 1}, "start": 0, "marker": ""}]
    for draw in draws(33):
        changed = {**good, draw.choice([*good, "messages", "text", "more"]): value(draw)}
        if draw.random() < 0.3:
            del changed["prompt"], changed["answer"]
        written = json.dumps(changed)
        file.write_text(damaged(draw, written) if draw.random() < 0.5 else written, "utf-8", "surrogatepass")
        if not refusal(partial(read_rows, file), f"{file}:"):
            write_rows(tmp_path / "again.jsonl", read_rows(file))
            assert read_rows(tmp_path / "again.jsonl") == read_rows(file)


@pytest.mark.parametrize(
    ("data", "prompt", "answer", "roles"),
    [
        ({"instruction": "Add.", "input": "1 and 2", "output": "3"}, "Add.\n\n1 and 2", "3", ""),
        ({"instruction": "Say hi", "input": "", "output": "hi", "text": "Below is ..."}, "Say hi", "hi", ""),
        (
            {"instruction": "And now?", "output": "No.", "system": "Be short.", "history": [["Hi", "Yes?"]]},
            "Be short.\n\nHi\n\nYes?\n\nAnd now?",
            "No.",
            "system user assistant user",
        ),
        ({"prompt": "2 + 2 =", "completion": " 4"}, "2 + 2 =", " 4", ""),
        (
            {
                "prompt": [{"role": "user", "content": "Hi"}],
                "completion": [{"role": "assistant", "content": "Ho"}],
            },
            "Hi",
            "Ho",
            "user",
        ),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}, "Hi", "Ho", "user"),
        ({"prompt": "Hi", "messages": as_messages([Turn("user", "Hi")], "Ho")}, "Hi", "Ho", "user"),
        (
            {
                "system": "Be short.",
                "conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
            },
            "Be short.\n\nHi",
            "Ho",
            "system user",
        ),
    ],
)
def test_rows_of_other_programs_are_read(data: dict[str, Any], prompt: str, answer: str, roles: str) -> None:
    row = row_from_dict({**data, "source": "here"})
    assert (row.prompt, row.answer, " ".join(turn.role for turn in row.turns)) == (prompt, answer, roles)
    assert row.extra == {"source": "here"}
    assert row_from_dict(row_to_dict(row)) == row


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"instruction": "Say hi", "output": ""}, "'answer' is empty"),
        ({"instruction": "Say hi"}, "'answer' is missing"),
        ({"instruction": 3, "output": "x"}, "'instruction' must be of type str, not int"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "'history' must be a list of pairs"),
        ({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}, "two texts, or two lists of messages"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "turn 1 is from 'tool'; allowed: system, human"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "no message is the assistant's"),
        ({"prompt": "Hi", "messages": as_messages([], "Ho")}, "the prompt is none of the messages; give one"),
        ({"prompt": "Hi", "messages": 3}, "the prompt is none of the messages; give one"),
        ({"conversations": "x"}, "'conversations' must be a list, not str"),
        ({"conversations": ["x"]}, "turn 1 is an object with 'from' and 'value'"),
    ],
)
def test_rows_of_other_programs_are_refused_like_others(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        row_from_dict(data)


def test_a_row_without_a_prompt_is_told_what_it_needs() -> None:
    for need_answer in (True, False):
        with pytest.raises(ValueError, match="'prompt' is missing") as refused:
            row_from_dict({"body": {}}, need_answer=need_answer)
        assert ("'answer'" in str(refused.value)) == need_answer
