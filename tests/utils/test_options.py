"""Options as dataclasses: what a YAML file may hold, what is wrong with one, what help says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from prosg.utils.options import (
    REQUIRED,
    build,
    construct,
    help_text,
    iter_options,
    merge,
    option,
    parse,
    read_options,
    read_yaml,
)


@dataclass(frozen=True)
class Inner:
    """A group.

    Attributes:
        rate: How fast,
            and on a second line.
        mode: Which.
        names: Several.
    """

    rate: float = 1.0
    mode: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    """All.

    Attributes:
        name: Its name.
        count: How many.
        files: One or several.
        limit: At most.
        flag: Whether.
        numbers: Whole ones.
        anything: Whatever.
        inner: The group.
    """

    name: str
    count: int = 3
    files: list[str] | str = ""
    limit: float | None = None
    flag: bool = False
    numbers: list[int] = field(default_factory=list)
    anything: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def test_values_of_every_type() -> None:
    content = {
        "name": "x",
        "files": ["a", "b"],
        "limit": 2,
        "flag": True,
        "numbers": [1, 2],
        "anything": {"k": [1]},
        "inner": {"rate": 1e-3, "mode": "b", "names": ["p"]},
    }
    made = build(Outer, content)
    assert made == Outer("x", 3, ["a", "b"], 2.0, True, [1, 2], {"k": [1]}, Inner(0.001, "b", ("p",)))
    assert build(Outer, {"name": "x", "files": "a", "limit": None}) == Outer("x", files="a")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"nme": 1}, ("nme", "name, count")),
        ({"inner": {"speed": 1}}, ("inner.speed", "rate, mode")),
        ({"inner.speed": 1}, ("inner.speed", "rate, mode")),
        ({"count.x": 1}, ("count.x", "name, count")),
        ({"count": "3"}, ("count", "'3'", "int")),
        ({"count": True}, ("count", "True", "int")),
        ({"flag": 1}, ("flag", "bool")),
        ({"name": 1}, ("name", "str")),
        ({"limit": "far"}, ("limit", "far", "float")),
        ({"limit": float("nan")}, ("limit", "nan", "finite")),
        ({"limit": float("inf")}, ("limit", "inf", "finite")),
        ({"inner": {"rate": "1e-3"}}, ("inner.rate", "'1e-3'", "float")),
        ({"inner": {"rate": 1e39}}, ("inner.rate", "1e+39", "finite")),
        ({"inner": {"rate": True}}, ("inner.rate", "True", "float")),
        ({"count": 2**63}, ("count", "2^63")),
        ({"count": 10**5000}, ("count", "thousands of digits")),
        ({"anything": {"k": [float("nan")]}}, ("anything.k[0]", "nan", "finite")),
        ({"numbers": [1, "x"]}, ("numbers[1]", "'x'", "int")),
        ({"numbers": 1}, ("numbers", "list")),
        ({"inner": {"mode": "c"}}, ("inner.mode", "'c'", "a, b")),
        ({"inner": {"names": "p"}}, ("inner.names", "list")),
        ({"inner": 3}, ("inner", "int", "options")),
        ({"inner": {"rate": 1.0}, "inner.rate": 2.0}, ("inner.rate", "twice")),
        ([], ("list", "options")),
    ],
)
def test_what_is_wrong_is_named(content: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        parse(Outer, content)
    assert all(word in str(error.value) for word in words)


def test_a_file_need_not_have_every_option(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("old: y\ninner.rate: 2\ninner:\n  mode: b\n")
    values = read_options(Outer, file, renamed={"old": "name"})
    assert values == {"name": "y", "inner": {"rate": 2.0, "mode": "b"}}
    assert construct(Outer, merge({"name": "x", "inner": {"rate": 1.0}}, values)).inner == Inner(2.0, "b")
    with pytest.raises(ValueError, match="x.yaml.*inner"):
        read_options(Outer, file, renamed={"old": "name"}, without=["inner"])
    file.write_text("# nothing\n")
    assert read_options(Outer, file) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", ("x.yaml:", "not YAML")), ("a: 1\nb: 2\na: 3\n", ("x.yaml:3", "a")), ("\x00", ("x.yaml", "not YAML"))],
)
def test_a_file_that_is_not_yaml(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=words[0]) as error:
        read_yaml(tmp_path / "x.yaml")
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="nowhere.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_options_have_names_defaults_and_docstrings() -> None:
    (outer, options), (inner, nested) = iter_options(Outer)
    assert (outer, inner) == (Outer, Inner)
    assert options[0].name == "name" and options[0].default is REQUIRED
    assert nested[0] == ("inner.rate", float, 1.0, "How fast, and on a second line.")
    lines = help_text(Inner).splitlines()
    assert lines[0].split() == ["rate:", "How", "fast,", "and", "on", "a", "second", "line.", "(default:", "1.0)"]
    assert option(Outer("x"), "inner.mode") == "a"
