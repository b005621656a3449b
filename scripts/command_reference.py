"""The reference of `prosg`'s commands as Markdown, made from their parsers.

    python scripts/command_reference.py > commands.md

`make docs` puts it into the site.
"""

from __future__ import annotations

import argparse
import html
import re
from collections.abc import Iterator

from prosg.cli import COMMANDS
from prosg.cli.main import GROUPS
from prosg.cli.parser import Command, Group, Parser

INTRODUCTION = """# Commands

Every command and option, as `prosg COMMAND --help` prints them. Options are written out in full, with dashes; an
option that takes several values takes them apart by spaces or commas. Files of options are described under
[training](training.md) and [evaluation](evaluation.md).
"""


def reference() -> str:
    """The whole page: the commands in the groups of `prosg --help`, each with its options."""
    parts = [INTRODUCTION]
    for heading, names in GROUPS.items():
        parts.append(f"## {heading[0].upper()}{heading[1:]}")
        for name in names:
            parts.extend(_command(name, COMMANDS[name]))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _command(name: str, command: Command | Group) -> Iterator[str]:
    if isinstance(command, Group):
        yield f"### prosg {name}"
        yield _prose(command.description)
        if command.examples:
            yield f"`prosg {name} --example` prints a commented file of options to start from."
        for inner, single in command.commands.items():
            yield from _single(f"{name} {inner}", single, "####")
    else:
        yield from _single(name, command, "###")


def _single(name: str, command: Command, level: str) -> Iterator[str]:
    parser = command.parser()
    parser.prog = f"prosg {name}"
    yield f"{level} prosg {name}"
    yield _prose(parser.description or command.help)
    if command.resumes:
        yield "Stopped and started again, the same command goes on from where it was."
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help is not argparse.SUPPRESS]
        actions = [action for action in actions if "--help" not in action.option_strings]
        if actions:
            title = group.title or "options"
            if title not in ("options", "positional arguments"):
                yield f"*{_prose(title)}*"
            yield "\n".join(["| | |", "| --- | --- |", *(_row(parser, action) for action in actions)])


def _row(parser: Parser, action: argparse.Action) -> str:
    formatter = parser._get_formatter()
    if action.option_strings:
        value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        value = re.sub(r"^(\S+) \[\1 \.\.\.\]$", r"\1 ...", value)
        name = f"{', '.join(action.option_strings)} {value}".strip()
    else:
        name = formatter._format_args(action, formatter._get_default_metavar_for_positional(action))
    cell = html.escape(name, quote=False).replace("|", "&#124;")
    return f"| <code>{cell}</code> | {_prose(formatter._expand_help(action))} |"


def _prose(text: str) -> str:
    """A help text as Markdown: its signs stand for themselves."""
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


if __name__ == "__main__":
    print(reference(), end="")
