"""Options as dataclasses: read from YAML files, checked against their types, described by their docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from prosg.utils.spelling import meant
from prosg.utils.values import shortened, typed
from prosg.utils.yaml_text import read_yaml

__all__ = [
    "REQUIRED",
    "Option",
    "build",
    "check_at_least",
    "construct",
    "dotted",
    "help_text",
    "iter_options",
    "merge",
    "option",
    "parse",
    "read_options",
    "read_yaml",
    "required_options",
    "summary",
]

T = TypeVar("T")
REQUIRED = dataclasses.MISSING
"""The default of an option that has none."""


def read_options(
    kind: type, path: str | Path, *, without: Collection[str] = (), renamed: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Reads options of a dataclass from a YAML file. They need not be all: the rest may come from elsewhere.

    Args:
        kind: The dataclass.
        path: The file; an empty one holds no options.
        without: Fields that the file may not set.
        renamed: Old name of a key -> its field.

    Returns:
        Checked values by field, groups of options as nested dictionaries.

    Raises:
        ValueError: as `read_yaml` and `parse`, naming the file.
    """
    content = read_yaml(path)
    try:
        return parse(kind, {} if content is None else content, without=without, renamed=renamed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(
    kind: type,
    content: Any,
    inside: str = "",
    *,
    without: Collection[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Checks keys and types of a mapping against a dataclass. A dotted key (optim.steps) is one inside a group.

    Args:
        kind: The dataclass; fields that are dataclasses are groups of options.
        content: The mapping.
        inside: What stands before a key in an error, like "optim.".
        without: Fields that may not be set.
        renamed: Old name of a key -> its field.

    Returns:
        The values that are set, by field; `construct` makes a dataclass of them.

    Raises:
        ValueError: for an unknown key or a value of another type; the message names the key and what is allowed.
    """
    if not isinstance(content, Mapping):
        where = inside.removesuffix(".") or "the file"
        raise ValueError(f"{where} is a {type(content).__name__}; it must hold options and their values")
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind) if field.name not in without]
    infinite = [field.name for field in dataclasses.fields(kind) if field.metadata.get("infinite")]
    values: dict[str, Any] = {}
    for key, value in content.items():
        name, dot, rest = str(key).partition(".")
        name = (renamed or {}).get(name, name)
        group = name in known and dataclasses.is_dataclass(hints[name])
        if name not in known or (dot and not group):
            raise ValueError(
                f"unknown key {inside}{shortened(str(key))}{meant(str(key), known)}; known are {', '.join(known)}"
            )
        if group:
            nested = parse(hints[name], {rest: value} if dot else value, f"{inside}{name}.")
            given = {option for option, _ in dotted(values.get(name, {}))}
            if twice := [option for option, _ in dotted(nested) if option in given]:
                raise ValueError(f"{inside}{name}.{twice[0]} is given twice")
            values[name] = merge(values.get(name, {}), nested)
        else:
            values[name] = typed(f"{inside}{key}", value, hints[name], infinite=name in infinite)
    return values


def construct(kind: type[T], values: Mapping[str, Any]) -> T:
    """Makes a dataclass of `parse`'s values. What a group refuses is named with the group: limits.rows."""
    hints = typing.get_type_hints(kind)
    return kind(
        **{
            name: _construct_group(hints[name], value, name) if dataclasses.is_dataclass(hints[name]) else value
            for name, value in values.items()
        }
    )


def _construct_group(kind: type[T], values: Mapping[str, Any], name: str) -> T:
    try:
        return construct(kind, values)
    except ValueError as error:
        first = str(error).partition(" ")[0]
        if first in {field.name for field in dataclasses.fields(typing.cast(Any, kind))}:
            raise ValueError(f"{name}.{error}") from None
        raise


def build(kind: type[T], content: Any, inside: str = "") -> T:
    """Makes a dataclass of a mapping's values, checked as by `parse`."""
    return construct(kind, parse(kind, content, inside))


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dictionaries of options with some of them changed."""
    merged = dict(values)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def dotted(values: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the options of nested dictionaries by their dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{inside}{name}.")
        else:
            yield f"{inside}{name}", value


def option(config: Any, name: str) -> Any:
    """Returns the value of an option by its dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def check_at_least(config: Any, names: Iterable[str], least: int, inside: str = "") -> None:
    """Raises ValueError for the first of these options, by dotted names, that is below `least` (0 or 1).

    `inside` is put before the name in the error.
    """
    allowed = "at least 1" if least else "0 or more"
    for name in names:
        if option(config, name) < least:
            raise ValueError(f"{inside}{name} is {option(config, name)}; it must be {allowed}")


class Option(NamedTuple):
    """One option of a dataclass: its dotted name, its type, its default (or `REQUIRED`) and its docstring."""

    name: str
    hint: Any
    default: Any
    help: str


def iter_options(kind: type, inside: str = "") -> Iterator[tuple[type, list[Option]]]:
    """Yields a dataclass with its own options, then each group of options in it, with dotted names."""
    hints, docs = typing.get_type_hints(kind), _attribute_docs(kind)
    options, groups = [], []
    for field in dataclasses.fields(kind):
        name, hint = f"{inside}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            groups.append((typing.cast("type", hint), f"{name}."))
        else:
            default = field.default_factory() if callable(field.default_factory) else field.default
            options.append(Option(name, hint, default, docs[field.name]))
    yield kind, options
    for group, prefix in groups:
        yield from iter_options(group, prefix)


def required_options(kind: type) -> list[str]:
    """Returns the names of the options of a dataclass that have no default."""
    return [option.name for option in next(iter_options(kind))[1] if option.default is REQUIRED]


def _attribute_docs(kind: type) -> dict[str, str]:
    """What the docstring's section "Attributes" says about each field."""
    text = inspect.getdoc(kind) or ""
    entries = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text.partition("Attributes:\n")[2], re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def summary(kind: type) -> str:
    """Returns the first line of a docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def help_text(config: type) -> str:
    """Describes every key of a YAML file: its meaning and default, by group."""
    lines: list[str] = []
    for group, options in iter_options(config):
        if lines:
            lines.append(f"{options[0].name.rpartition('.')[0]}: {summary(group)}")
        lines += [f"  {name}: {text} (default: {default!r})" for name, _, default, text in options]
    return "\n".join(lines)
