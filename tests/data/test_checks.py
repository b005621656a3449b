"""Checks of an answer's stages, and how an answer is split into stages."""

from __future__ import annotations

import re
from random import Random
from typing import Any

import pytest

from prosg.data.checks import CHECKS, check_stages, find_stages, run_check, split_items, validate_check
from prosg.data.row import Row, Stage, row_from_dict
from prosg.data.synthetic import make_row
from support.generated import draws

ITEMS = {"items": ["Anna", "Bob"], "after": "Names:"}


@pytest.mark.parametrize(
    ("check", "passing", "failing"),
    [
        ({"type": "exact", "text": "Code: 12"}, [" Code: 12\n"], ["Code: 123", "Code: 1 2", ""]),
        (
            {"type": "ordered_items", **ITEMS},
            ["Names: Anna and Bob.", "Names: Anna, Bob"],
            ["Names: Bob and Anna.", "Anna, Bob"],
        ),
        ({"type": "same_items", **ITEMS}, ["Names: Bob and Anna."], ["Names: Bob, Bob and Anna.", "Names: Anna."]),
        ({"type": "contains", "items": ["cup", "key"]}, ["The key, the cup."], ["The keys and the cup."]),
        ({"type": "contains", "items": ["小红", "B7"]}, ["客人是小红和B7。"], ["客人是小明和B7。", "小红和B77。"]),
        ({"type": "contains", "items": ["(a)"]}, ["so(a)b"], ["a"]),
        ({"type": "same_items", "items": ["小红", "小明"]}, ["小明、小红。"], ["小红。"]),
        ({"type": "ends_with", "text": "Keep it."}, ["So. Keep it. "], ["Keep it. So."]),
        ({"type": "sentences", "min": 2, "max": 2}, ["One is. Two are!"], ["One is.", "A. B. C.", "A. . ."]),
        ({"type": "sentences", "max": 1}, ["He paid 3.50 for it."], ["He paid 3. Then he left."]),
        ({"type": "sentences", "min": 2, "max": 2}, ["一。二！"], ["一。", "一，二。"]),
        ({"type": "words", "min": 2, "max": 3}, ["Don't go.", "three-part one, two", "三个字"], ["one", "四个汉字"]),
        ({"type": "words"}, ["1"], ["", "..."]),
        ({"type": "sentences"}, ["A."], ["", "...", "no stop"]),
        (
            {"type": "repeats", "items": ["42"], "stage": 0, "after": "Choice:"},
            ["Both: 42, x"],
            ["Both: 421", "Both: 42 or 43", "Both: 42, Anna"],
        ),
        (
            {"type": "only", "items": ["48219"], "sort": "number"},
            ["Password: 48219", "Password: It was 48219.", "Password:\n\n48219\n\nIn 1999 a fox", "48219\n17 foxes"],
            ["Password: 48219, 12345", "Password: 1, 2, 3, 48219", "Password: 482190", "Password: 17\n48219", ""],
        ),
        (
            {"type": "only", "items": ["Anna", "Ben"], "sort": "name"},
            [
                "Guests: Anna and Ben.",
                "**First guests:** Ben, Anna!\nThen Tom came.",
                "Guests: We expect Anna and Ben. I hope they come.",
                "Guests:\n1. Anna\n2. Ben\n\nTom went home.",
            ],
            [
                "Guests: Anna, Ben, Carl",
                "Guests: Tom, Anna, Ben",
                "Guests: Anna and Ben with Tom",
                "Guests:\n- Anna\n- Ben\n- Carl",
                "Guests: Anna, Ben and Sarah Miller.",
                "Guests: Anna",
            ],
        ),
        (
            {"type": "only", "items": ["Monday", "mill"], "others": ["Sunday", "bank"]},
            ["Reminder: Be at the mill on Monday.", "Reminder: Monday, mill, 5 banks"],
            ["Reminder: Monday or Sunday, mill", "Reminder: Monday, mill, bank", "Reminder: mill"],
        ),
        ({"type": "all_of", "checks": [{"type": "sentences"}, {"type": "ends_with", "text": "b."}]}, ["A b."], ["b"]),
    ],
)
def test_each_check_passes_and_fails(check: dict[str, Any], passing: list[str], failing: list[str]) -> None:
    validate_check(check)
    assert [run_check(check, text) for text in passing] == [True] * len(passing)
    assert [run_check(check, text) for text in failing] == [False] * len(failing)


def test_every_type_is_tested_above() -> None:
    tested = {
        "exact",
        "ordered_items",
        "same_items",
        "contains",
        "only",
        "ends_with",
        "sentences",
        "words",
        "all_of",
        "repeats",
    }
    assert set(CHECKS) == tested


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("exact", "object .* str"),
        ({}, "None; allowed: exact"),
        ({"type": "exact"}, "'exact' .* 'text'"),
        ({"type": "exact", "text": 3}, "'text' .* str, not int"),
        ({"type": "exact", "text": "a", "words": 3}, "'words'; allowed: text"),
        ({"type": "sentences", "min": True}, "'min' .* int, not bool"),
        ({"type": "contains", "items": []}, "'items' .* at least one"),
        ({"type": "contains", "items": [1]}, "'items' .* string"),
        ({"type": "only", "items": ["a"], "others": []}, "'others' .* at least one"),
        ({"type": "only", "items": ["a"], "sort": "city"}, "'sort' 'city'; allowed: number, name"),
        ({"type": "all_of", "checks": [{"type": "magic"}]}, "'magic'; allowed: exact"),
        ({"type": "all_of", "checks": []}, "'checks' .* at least one"),
        ({"type": "sentences", "min": 3, "max": 2}, "'sentences': no answer passes 'min' 3 and 'max' 2"),
        ({"type": "words", "max": 0}, "'words': no answer passes 'min' 1, as it is by default, and 'max' 0"),
    ],
)
def test_bad_checks_are_errors(check: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate_check(check)


def test_running_an_unknown_check_is_an_error() -> None:
    with pytest.raises(ValueError, match="allowed: exact"):
        run_check({"type": "magic"}, "text")


def test_items_are_split_at_commas_and_ands() -> None:
    assert split_items(" Anna, Bob, and Andrew and Cara. ") == ["Anna", "Bob", "Andrew", "Cara"]
    assert split_items("Anna,, Bob,") == ["Anna", "", "Bob", ""]
    assert split_items(" . ") == []


THREE = row_from_dict(
    {
        "prompt": "p",
        "answer": "A.\nB: b\nC: c",
        "stages": [
            {"instruction": "a", "check": {"type": "sentences"}, "start": 0, "marker": ""},
            {"instruction": "b", "check": {"type": "exact", "text": "B: b"}, "start": 2, "marker": "\nB:"},
            {"instruction": "c", "check": {"type": "exact", "text": "C: c"}, "start": 7, "marker": "\nC:"},
        ],
    }
)


@pytest.mark.parametrize(
    ("text", "stages", "right"),
    [
        ("A.\nB: b\nC: c", ["A.", "B: b", "C: c"], [True, True, True]),
        ("Other. Words.\nB: b\nC: d", ["Other. Words.", "B: b", "C: d"], [True, True, False]),
        ("A.\nC: c", ["A.", None, "C: c"], [True, False, True]),
        ("A.\nB: b", ["A.", "B: b", None], [True, True, False]),
        ("A.\nC: c\nB: b", ["A.\nC: c", "B: b", None], [True, True, False]),
        ("A.\nB: b\nC: c\nC: c", ["A.", "B: b", "C: c\nC: c"], [True, True, False]),
        ("", ["", None, None], [False, False, False]),
    ],
)
def test_generated_text_is_cut_by_the_markers(text: str, stages: list[str | None], right: list[bool]) -> None:
    assert find_stages(THREE, text) == stages
    assert check_stages(THREE, text) == right


def test_a_stated_number_of_sentences_is_not_held_against_a_length_that_was_forced() -> None:
    rng = Random(0)
    row = next(row for _ in range(99) if "max" in (row := make_row("code", rng, (4, 4))).stages[0].check)
    longer = "One more sentence. " + row.answer
    assert check_stages(row, longer) == [False, True]
    assert check_stages(row, longer, length_controlled=True) == [True, True]
    assert check_stages(row, row.answer[row.stages[1].start :], length_controlled=True) == [False, True]


def test_no_stages_no_scores() -> None:
    assert check_stages(row_from_dict({"prompt": "p", "answer": "a"}), "a") == []


def test_a_text_that_never_ends_a_sentence_is_judged_at_once() -> None:
    """In time cubic in the length this would take days."""
    assert not run_check({"type": "sentences", "min": 1, "max": 9}, "word " * 20_000)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Choice: Anna. A fox ran.\nBoth: 4711, Anna.", True),
        ("Choice: Bob. A fox ran.\nBoth: 4711, Bob.", True),
        ("Choice: Bob. A fox ran.\nBoth: 4711, Anna.", False),  # what the row's own answer says does not count
        ("Choice: Bob. A fox ran.\nBoth: Bob.", False),
        ("Choice: Bob. A fox ran.\nBoth: 4711, 4712, Bob.", False),
        ("Choice: Bob. A fox ran.\nBoth: 4711, Anna, Bob, Carl.", False),
        ("A fox ran.\nBoth: 4711, Anna.", False),
        ("Choice: . A fox ran.\nBoth: 4711, Anna.", False),
    ],
)
def test_what_the_answer_chose_has_to_be_repeated(text: str, right: bool) -> None:
    late = {"type": "repeats", "items": ["4711"], "stage": 0, "after": "Choice:"}
    answer = "Choice: Anna. A fox ran.\nBoth: 4711, Anna."
    stages = (
        Stage("choose", {"type": "sentences"}, 0, ""),
        Stage("repeat", late, answer.index("\nBoth"), "\nBoth:"),
    )
    row = Row("x", "The code is 4711.", answer, "choose", stages=stages)
    assert check_stages(row, text)[-1] == right


def test_items_are_split_as_a_pattern_of_every_blank_would_split_them() -> None:
    every_blank = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+|[\uff0c\u3001]")
    for draw in draws(32):
        text = "".join(draw.choice([",", " ", "\n", "and", "and ", "a", "b", "、"]) for _ in range(draw.randrange(14)))
        inner = text.strip().removesuffix(".").removesuffix("。")
        assert split_items(text) == (every_blank.split(inner) if inner else []), repr(text)
