"""One check per type of value, for options from files, from Python and from the command line alike.

A number is finite and of a size with which fp32 can still compute, a whole number fits into 64 bits, true is no 1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from prosg.utils.spelling import meant

__all__ = [
    "GREATEST_OPTION",
    "INFINITE",
    "check_fields",
    "check_number",
    "check_whole",
    "exponential",
    "from_json_number",
    "shortened",
    "shown",
    "to_json_number",
    "typed",
]

GREATEST_OPTION = 1e30
"""The greatest number that an option may be: its square root times itself is still a number in fp32."""
MOST_WHOLE = 2**63 - 1
INFINITE = {"infinite": True}
"""Metadata of a dataclass' field that may be infinite."""
LONGEST_SHOWN = 80


def exponential(nats: float) -> float:
    """Returns e^nats; infinity where that is beyond the numbers."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def shown(value: Any) -> str:
    """Returns a value as errors show it: one line, and not all of a long one."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"a {type(value).__name__} of thousands of digits"
    return shortened(text)


def shortened(text: str, most: int = LONGEST_SHOWN) -> str:
    """Returns a text as one line, without what is too much of it for an error."""
    text = " ".join(text.splitlines())
    return text if len(text) <= most else f"{text[:most]}..."


def to_json_number(value: float | None) -> float | str | None:
    """A number as JSON can say it: infinity is "inf", as it is typed."""
    return "inf" if value == math.inf else value


def from_json_number(value: Any) -> Any:
    """What `to_json_number` made a value of; any other as it is."""
    return math.inf if value == "inf" else value


def check_number(name: str, value: Any, *, infinite: bool = False) -> float:
    """Returns a number as a float.

    Args:
        name: What the error names.
        value: Any value.
        infinite: Whether infinity is one, too.

    Raises:
        ValueError: for what is no number (NaN, true and text are none) and for one beyond `GREATEST_OPTION`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} is {shown(value)}; it must be of type float")
    if infinite and value == math.inf:
        return math.inf
    number: Any = value
    if not abs(number) <= GREATEST_OPTION:
        raise ValueError(f"{name} is {shown(value)}; it must be a finite number, at most {GREATEST_OPTION:g}")
    return float(number)


def check_whole(name: str, value: Any) -> Any:
    """Returns a whole number. Raises ValueError for anything else, and for one that needs more than 64 bits."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} is {shown(value)}; it must be of type int")
    number: Any = value
    if abs(number) > MOST_WHOLE:
        raise ValueError(f"{name} is {shown(value)}; a whole number must be at most 2^63 - 1")
    return number


def typed(name: str, value: Any, hint: Any, *, infinite: bool = False) -> Any:
    """Returns a value as a type wants it: lists become tuples where the type is one, whole numbers floats.

    Args:
        name: What the error names.
        value: Any value.
        hint: int, float, bool, str, Literal, list, tuple, Sequence or dict of these, a union of them, or Any.
        infinite: Whether a float may be infinite.

    Raises:
        ValueError: for a value of another type or out of range, with what is allowed.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is float:
        return check_number(name, value, infinite=infinite)
    if hint is int:
        return check_whole(name, value)
    if hint is bool and not isinstance(value, bool):
        raise ValueError(f"{name} is {shown(value)}; it must be true or false (of type bool)")
    if hint is Any:
        _check_any(name, value, infinite)
        return value
    if origin is Literal:
        if not isinstance(value, (str, int)) or value not in inner:
            allowed = [*map(str, inner)]
            raise ValueError(f"{name} is {shown(value)}{meant(str(value), allowed)}; allowed: {', '.join(allowed)}")
        return value
    if origin is types.UnionType:  # an optional number, or one string or several
        if value is None and type(None) in inner:
            return None
        one = next((h for h in inner if isinstance(value, typing.get_origin(h) or h)), inner[0])
        return typed(name, value, one, infinite=infinite)
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        return origin(typed(f"{name}[{place}]", item, inner[0]) for place, item in enumerate(value))
    if origin is Sequence and isinstance(value, Sequence):
        for place, item in enumerate(value):
            typed(f"{name}[{place}]", item, inner[0])
        return value
    if origin is dict and isinstance(value, dict):
        names = {key: f"{name}.{shortened(str(key))}" for key in value}
        return {str(key): typed(names[key], item, inner[1], infinite=infinite) for key, item in value.items()}
    wanted = list if origin in (tuple, Sequence) else origin or hint
    if not isinstance(value, wanted):
        raise ValueError(f"{name} is {shown(value)}; it must be of type {wanted.__name__}")
    return value


def check_fields(options: Any, inside: str = "") -> None:
    """Raises ValueError for the first field of a dataclass whose value does not have the field's type.

    `inside` is put before the name in the error. Fields that are dataclasses themselves check their own fields.
    """
    for field, hint in _fields(typing.cast("Any", type(options))):
        if dataclasses.is_dataclass(hint):
            kind = typing.cast("type", hint)
            if not isinstance(value := getattr(options, field.name), kind):
                raise ValueError(
                    f"{inside}{field.name} is of type {type(value).__name__}; it must be of type {kind.__name__}"
                )
            continue
        infinite = bool(field.metadata.get("infinite"))
        typed(f"{inside}{field.name}", getattr(options, field.name), hint, infinite=infinite)


@functools.cache
def _fields(kind: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]


def _check_any(name: str, value: Any, infinite: bool) -> None:
    """Checks the numbers in a value of JSON or YAML."""
    if isinstance(value, float):
        check_number(name, value, infinite=infinite)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_any(f"{name}.{shortened(str(key))}", item, infinite)
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            _check_any(f"{name}[{place}]", item, infinite)
