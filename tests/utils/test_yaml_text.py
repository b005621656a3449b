"""YAML: one meaning in every command, and bounded."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prosg.utils.outside import DEEPEST
from prosg.utils.yaml_text import MOST_BYTES, check_yaml, parse_yaml, read_yaml
from support.generated import damaged, draws, refusal, text


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("010", 10),
        ("-07", -7),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1_0", "1_0"),
        ("1:30", "1:30"),
        ("1e-1", 0.1),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("2020-01-01", "2020-01-01"),
        ("~", None),
        ("", None),
        ("null", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("=", "="),
        (r'"\ud83d"', "\ufffd"),
    ],
)
def test_a_value_means_what_yaml_1_2_says(written: str, meant: Any) -> None:
    read = parse_yaml(f"key: {written}", "x")["key"]
    assert read == meant and type(read) is type(meant)


def test_keys_are_text_as_they_are_written() -> None:
    assert list(parse_yaml("no: 1\n010: 2\n1e-1: 3\nnull: 4\ntrue: 5\n'a b': 6", "x")) == [
        "no",
        "010",
        "1e-1",
        "null",
        "true",
        "a b",
    ]


def test_mappings_are_taken_in() -> None:
    content = parse_yaml("base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\nmany: {<<: [{x: 5}, *b]}\nquoted: {'<<': 1}", "x")
    assert content["own"] == {"x": 1, "y": 3}
    assert content["many"] == {"x": 5, "y": 2}
    assert content["quoted"] == {"<<": 1}


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def chain(levels: int) -> str:
    return "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, levels))])


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3: .*a stands twice"),
        ("a: 1\n'a': 3", "x.yaml:2: .*a stands twice"),
        ("a: .nan", "x.yaml:1: .*nan is no number"),
        ("a: 1e999", "greater than any number"),
        ("a: " + "1" * 5000, "a number of 5000 digits"),
        ("? [a]\n: 1", "a key is a list or a mapping"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
        ("a: !!binary aGk=", "tag"),
        ("a: !!set {b}", "tag"),
        ("a: !!int x", "'x' is no int"),
        ("a: !!bool x", "tag"),
        ("a: !!float x", "'x' is no float"),
        ("a: !!timestamp 2020", "tag"),
        ("a: [", "x.yaml:"),
        ("a: *b", "x.yaml:1"),
        ("a: &b [*b]", "an alias within its own value"),
        ("--- 1\n--- 2", "x.yaml:2"),
        ("\x00", "x.yaml"),
        ("<<: 1", "<< takes in mappings"),
        (bomb(9), "more than 50000 values"),
        (chain(200), f"deeper than {DEEPEST}"),
        ("[" * 100_000, f"deeper than {DEEPEST}"),
        ("a: " + "{b: " * 100 + "1" + "}" * 100, f"deeper than {DEEPEST}"),
    ],
)
def test_what_is_refused_is_one_line(written: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        parse_yaml(written, "x.yaml")
    assert str(error.value).startswith("x.yaml") and "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="x.yaml: not UTF-8"):
        read_yaml(file)
    file.write_text("#" * (MOST_BYTES + 1))
    with pytest.raises(ValueError, match="x.yaml: has more than"):
        read_yaml(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_yaml(tmp_path)


def test_a_file_with_the_tags_of_another_program_is_yaml(tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text("task: mine\nprocess: !function utils.process\n")
    check_yaml(file)
    file.write_text("task: [mine\n")
    with pytest.raises(ValueError, match="task.yaml:2: not YAML"):
        check_yaml(file)


def test_generated_text_is_a_value_of_json_or_one_line() -> None:
    good = "a: 1\nb: [x, 'y', .5, null]\nc: &c {d: true, e: \"f\"}\ng: *c\n"
    for draw in draws(1):
        for written in (text(draw), damaged(draw, good)):
            if not refusal(partial(parse_yaml, written, "x.yaml"), "x.yaml"):
                json.dumps(parse_yaml(written, "x.yaml"), ensure_ascii=False).encode()
