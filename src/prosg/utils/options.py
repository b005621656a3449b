"""Configuration files: YAML into dataclasses whose docstrings are the help, and what is wrong with a file of them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

__all__ = ["build", "help_text", "option", "read_yaml"]

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """Plain YAML with one change: a key that stands twice is an error, where the first would be lost unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds. ValueError names the file and what was wrong; a key that stands twice is wrong."""
    try:
        return yaml.load(Path(path).read_text("utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{path}{where}: not YAML ({error.problem})") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({error})") from None


def build(kind: type[T], content: Any, inside: str = "") -> T:
    """A dataclass of a mapping's values, checked by its types; `inside` is what stands before a key in a complaint."""
    if not isinstance(content, Mapping):
        where = inside.removesuffix(".") or "the file"
        raise ValueError(f"{where} is a {type(content).__name__}; it must hold options and their values")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in content.items():
        if key not in hints:
            raise ValueError(f"unknown key {inside}{key}; known are {', '.join(hints)}")
        if dataclasses.is_dataclass(hints[key]):
            values[key] = build(typing.cast("type[Any]", hints[key]), value, f"{inside}{key}.")
        else:
            values[key] = _typed(f"{inside}{key}", value, hints[key])
    return kind(**values)


def _typed(name: str, value: Any, hint: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(str, inner))}")
        return value
    if origin is types.UnionType:  # an optional number
        return None if value is None else _typed(name, value, inner[0])
    if origin in (list, dict) and isinstance(value, origin):
        if origin is list:
            return [_typed(f"{name}[{place}]", item, inner[0]) for place, item in enumerate(value)]
        checked = {str(key): item for key, item in value.items()}
        return checked if inner[1] is Any else {k: _typed(f"{name}.{k}", item, inner[1]) for k, item in checked.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = origin or hint
    # bool is an int in Python, but `count: true` is a mistake.
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{name} is {value!r}; it must be of type {wanted.__name__}")
    return value


def option(config: Any, name: str) -> Any:
    """The value of an option by its dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _attributes(kind: type) -> dict[str, str]:
    """What a docstring says of each attribute."""
    text = inspect.getdoc(kind) or ""
    found = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text.partition("Attributes:\n")[2], re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def help_text(config: type) -> str:
    """Every key with its meaning and default, as the file's groups."""

    def lines(kind: type, inside: str) -> Iterator[str]:
        told = _attributes(kind)
        groups = []
        for one in dataclasses.fields(kind):
            default = one.default_factory() if callable(one.default_factory) else one.default
            if dataclasses.is_dataclass(default):
                groups.append((one.name, type(default)))
            else:
                yield f"  {inside}{one.name}: {told[one.name]} (default: {default!r})"
        for name, group in groups:
            yield f"{name}: {(inspect.getdoc(group) or '').splitlines()[0]}"
            yield from lines(group, f"{name}.")

    return "\n".join(lines(config, ""))
