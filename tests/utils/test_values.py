"""One check per type of value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pytest

from prosg.utils.options import build
from prosg.utils.values import GREATEST_OPTION, INFINITE, check_fields, typed
from support.generated import draws, refusal, value

HINTS = {
    "number": float,
    "whole": int,
    "flag": bool,
    "words": str,
    "one": Literal["a", "b"],
    "maybe": float | None,
    "several": list[str] | str,
    "many": tuple[str, ...],
    "rows": Sequence[str],
    "numbers": list[int],
    "anything": dict[str, Any],
}


@dataclass(frozen=True)
class Options:
    """All types."""

    number: float = 0.5
    whole: int = 1
    flag: bool = False
    words: str = ""
    one: Literal["a", "b"] = "a"
    maybe: float | None = None
    several: list[str] | str = ""
    many: tuple[str, ...] = ()
    numbers: list[int] = field(default_factory=list)
    anything: dict[str, Any] = field(default_factory=dict)
    window: float = field(default=1.0, metadata=INFINITE)

    def __post_init__(self) -> None:
        check_fields(self, "group.")


@dataclass(frozen=True)
class Grouped:
    group: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        check_fields(self)


def test_a_group_of_options_is_of_its_type() -> None:
    with pytest.raises(ValueError, match="group is of type dict; it must be of type Options"):
        Grouped({"number": 1.0})  # type: ignore[arg-type]


def finite(content: Any) -> bool:
    if isinstance(content, dict):
        return all(map(finite, content.values()))
    if isinstance(content, (list, tuple)):
        return all(map(finite, content))
    return not isinstance(content, float) or abs(content) <= GREATEST_OPTION


def test_generated_values_have_their_type_or_are_refused_in_one_line() -> None:
    for draw in draws(2):
        for name, hint in HINTS.items():
            given = value(draw)
            if refusal(partial(typed, name, given, hint), name):
                continue
            accepted = typed(name, given, hint)
            assert name == "rows" or finite(accepted)
            assert name != "number" or type(accepted) is float
            assert name != "whole" or (type(accepted) is int and abs(accepted) < 2**63)


def test_generated_options_are_as_good_from_a_file_as_from_python() -> None:
    for draw in draws(3):
        name = draw.choice([*HINTS.keys() - {"rows"}])
        given = value(draw, 1)
        from_python, from_file = partial(Options, **{name: given}), partial(build, Options, {name: given})
        assert bool(refusal(from_python, f"group.{name}")) == bool(refusal(from_file, name))


@pytest.mark.parametrize("window", [math.inf, 3])
def test_a_field_that_may_be_infinite_says_so(window: float) -> None:
    assert build(Options, {"window": window}).window == window
    with pytest.raises(ValueError, match=r"number is inf"):
        build(Options, {"number": math.inf})
    for bad in (-math.inf, math.nan, 1e31):
        with pytest.raises(ValueError, match=r"group.window"):
            Options(window=bad)
