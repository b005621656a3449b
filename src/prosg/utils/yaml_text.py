"""YAML from outside, with the meanings of YAML 1.2, and bounded.

    yes, no, on, off   text; true and false alone are logical values
    010, 1e-1          the numbers 10 and .1; 0o10 and 0x10 are octal and hexadecimal
    10_000             10000, in groups of three digits, as files of YAML 1.1 may have it
    no: 1              a key is text as it is written, whatever it looks like as a value
    << : *name         a mapping taken in, as many files of YAML 1.1 do

The text is composed by PyYAML; what its nodes mean is decided here. A key that stands twice is an error, since the
first value would be lost unseen. Aliases count as what they stand for: a short text cannot become a huge value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from prosg.utils.outside import DEEPEST, MOST_DIGITS, decode_text, plain_reason, read_text, whole_text
from prosg.utils.values import shortened

__all__ = ["MOST_BYTES", "MOST_VALUES", "check_yaml", "parse_yaml", "read_yaml"]

MOST_BYTES = 1 << 20
"""Size of a file; PyYAML reads about as much in ten seconds."""
MOST_VALUES = 50_000
"""Values that a text may stand for, aliases written out."""
TAG = "tag:yaml.org,2002:"
WORDS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
NULLS = ("", "~", "null", "Null", "NULL")
NUMBERS = {
    "int": re.compile(r"[-+]?[0-9]+|[-+]?[0-9]{1,3}(?:_[0-9]{3})+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}


class _Nodes(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's nodes of a text, none of them deeper than `DEEPEST`."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self.depth = self.count = 0

    peek_event: Callable[[], yaml.Event]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        self.count += 1
        if self.count > MOST_VALUES:
            _refuse(self.peek_event(), f"more than {MOST_VALUES} values")
        if self.depth > DEEPEST + 1:
            _refuse(self.peek_event(), f"values deeper than {DEEPEST} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _name, _pattern in (
    ("null", re.compile("|".join(map(re.escape, NULLS)))),
    ("bool", re.compile("|".join(WORDS))),
    *NUMBERS.items(),
):
    _Nodes.add_implicit_resolver(f"{TAG}{_name}", re.compile(rf"(?:{_pattern.pattern})\Z"), None)


def read_yaml(path: str | Path) -> Any:
    """Reads a YAML file.

    Raises:
        ValueError: for a file that cannot be read, and as `parse_yaml`; the message names file and line.
    """
    return parse_yaml(read_text(path, MOST_BYTES), str(path))


def parse_yaml(text: str | bytes, where: str) -> Any:
    """Returns the value of a text, None for an empty one. The keys of mappings are strings.

    Args:
        text: One document; bytes are UTF-8.
        where: What errors name: the file.

    Raises:
        ValueError: "WHERE:LINE: ..." for what is not YAML, a key that stands twice, a tag of another type, a number
            that is none (.nan, 1e999), and for more values or levels than are allowed.
    """
    with _named(where):
        node = _Nodes(decode_text(text, where)).get_single_node()
        if node is None:
            return None
        _check_size(node, {})
        return _value(node)


def check_yaml(path: str | Path) -> None:
    """Raises ValueError, as `read_yaml`, for a file that is no YAML at all, whatever its values and tags mean."""
    with _named(str(path)):
        _Nodes(read_text(path, MOST_BYTES)).get_single_node()


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors of PyYAML become those of this module."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{where}{line}: not YAML ({shortened(str(error.problem))})") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML ({plain_reason(error)})") from None


def _refuse(at: Any, reason: str) -> NoReturn:
    """Raises the error of a node or event."""
    raise yaml.MarkedYAMLError(problem=reason, problem_mark=at.start_mark)


def _check_size(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Number of values and of levels of a node, aliases written out. An alias is of a node that was known before."""
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            _refuse(node, "an alias within its own value")
        return size
    known[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    sizes = [_check_size(child, known) for child in children]
    count, depth = 1 + sum(count for count, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    if count > MOST_VALUES:
        _refuse(node, f"more than {MOST_VALUES} values, aliases written out")
    if depth > DEEPEST + 1:
        _refuse(node, f"values deeper than {DEEPEST} levels")
    known[id(node)] = count, depth
    return count, depth


def _value(node: yaml.Node) -> Any:
    kind = node.tag.removeprefix(TAG)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_value(child) for child in node.value]
    if isinstance(node, yaml.ScalarNode):
        text = node.value
        if kind == "str":
            return whole_text(text)
        if kind == "null" and text in NULLS:
            return None
        if kind == "bool" and text in WORDS:
            return WORDS[text]
        if kind in NUMBERS:
            return _number(node, kind)
    _refuse(node, f"tag {node.tag!r} of {'a value' if isinstance(node, yaml.ScalarNode) else 'values'}; allowed: none")


def _number(node: yaml.ScalarNode, kind: str) -> int | float:
    text = node.value
    if not NUMBERS[kind].fullmatch(text):
        _refuse(node, f"{text[:40]!r} is no {kind}")
    if len(text) > MOST_DIGITS:
        _refuse(node, f"a number of {len(text)} digits; at most {MOST_DIGITS} are read")
    if kind == "int":
        prefix = text[:2]
        return int(text[2:], {"0o": 8, "0x": 16}[prefix]) if prefix in ("0o", "0x") else int(text)
    if text[-3:].lower() in ("inf", "nan"):
        if text[-1] in "nN":
            _refuse(node, f"{text} is no number")
        return -math.inf if text[0] == "-" else math.inf
    value = float(text)
    if math.isinf(value):
        _refuse(node, f"{text[:40]} is greater than any number")
    return value


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    own: dict[str, Any] = {}
    taken: dict[str, Any] = {}
    for key, child in node.value:
        if not isinstance(key, yaml.ScalarNode):
            _refuse(key, "a key is a list or a mapping; it must be text")
        if key.value == "<<" and key.style is None:
            for part in child.value if isinstance(child, yaml.SequenceNode) else [child]:
                if not isinstance(part, yaml.MappingNode):
                    _refuse(part, "<< takes in mappings alone")
                taken = _value(part) | taken
            continue
        name = whole_text(key.value)
        if name in own:
            _refuse(key, f"{shortened(name)} stands twice")
        own[name] = _value(child)
    return taken | own
