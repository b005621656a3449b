"""How help looks: at most 80 columns, a usage of one line, defaults shown, names listed with what they are."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from prosg.utils.options import REQUIRED

__all__ = ["HelpFormatter", "default_note", "listing", "short_usage", "value_text"]

WIDTH = 78
"""Longest line, in characters; terminals that are narrower have shorter ones."""
METAVARS = {"int": "N", "float": "NUMBER", "path_text": "PATH"}
"""Name of an option's type -> what stands for its value."""


def width() -> int:
    """The longest line here."""
    return min(WIDTH, shutil.get_terminal_size().columns - 2)


class HelpFormatter(argparse.HelpFormatter):
    """argparse's help with the defaults in it, and values named by what they are."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=28, **{"width": width(), **options})

    def _get_help_string(self, action: argparse.Action) -> str:
        return (action.help or "") + ("" if isinstance(action.default, bool) else default_note(action.default))

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = getattr(action, "item", None) or action.type
        return METAVARS.get(getattr(kind, "__name__", ""), "TEXT")

    def _get_default_metavar_for_positional(self, action: argparse.Action) -> str:
        return action.dest.upper()

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrapped(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in _wrapped(text, width - len(indent)))

    def _format_args(self, action: argparse.Action, default_metavar: Any) -> str:
        if isinstance(action.metavar, tuple):  # "MIN MAX": so many values, not a list of any length
            return " ".join(action.metavar)
        return super()._format_args(action, default_metavar)


def default_note(default: Any) -> str:
    """What help says of a default, with argparse's escapes."""
    if default is REQUIRED:
        return " Required."
    if default in (None, argparse.SUPPRESS, "", [], ()):
        return ""
    return f" (default: {value_text(default)})".replace("%", "%%")


def value_text(value: Any) -> str:
    """A value as it is typed: true, 0.5, a,b."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(value_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def short_usage(parser: argparse.ArgumentParser) -> str:
    """A command with what it cannot do without. argparse's own usage is every option over many lines."""
    formatter = parser._get_formatter()
    positionals, needed, optional = [], [], False
    for action in parser._actions:
        if action.help is argparse.SUPPRESS:
            continue
        if not action.option_strings:
            positionals.append(formatter._format_args(action, action.dest.upper()))
        elif action.required:
            metavar = formatter._get_default_metavar_for_optional(action)
            needed.append(f"{action.option_strings[-1]} {formatter._format_args(action, metavar)}")
        else:
            optional = optional or not isinstance(action, argparse._HelpAction)
    return " ".join(["%(prog)s", *positionals, *needed, *["[options]"] * optional])


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of a text; names with hyphens stay whole."""
    return textwrap.wrap(" ".join(text.split()), max(width, 11), break_on_hyphens=False)


def listing(heading: str, entries: Iterable[tuple[str, str]] | Mapping[str, str]) -> str:
    """A heading, and under it names with what each is, in two columns."""
    pairs = list(entries.items() if isinstance(entries, Mapping) else entries)
    column = max(len(name) for name, _ in pairs) + 4
    lines = [f"{heading}:"]
    for name, text in pairs:
        first, *more = _wrapped(text, width() - column) or [""]
        lines += [f"  {name:<{column - 2}}{first}".rstrip(), *(" " * column + line for line in more)]
    return "\n".join(lines)
