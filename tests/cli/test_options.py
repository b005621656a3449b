"""Commands and their options, held against options.json, so that an option is added on purpose.

Record them anew:  RECORD_OPTIONS=1 python -m pytest tests/cli/test_options.py
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest

from prosg.cli.parser import Command
from support.commands import commands

RECORD = Path(__file__).with_name("options.json")


def described(action: argparse.Action) -> dict[str, Any]:
    kind = getattr(action, "item", None) or action.type
    values = {
        "type": getattr(kind, "__name__", None),
        "choices": action.choices,
        "nargs": action.nargs,
        "required": action.required or None,
        "default": None if action.default is argparse.SUPPRESS else action.default,
    }
    return {name: value for name, value in values.items() if value is not None}


def options_of(command: Command) -> dict[str, Any]:
    actions = command.parser()._actions
    return {" ".join(action.option_strings) or action.dest.upper(): described(action) for action in actions[1:]}


def one_line_per_option(found: dict[str, dict[str, Any]]) -> str:
    parts = []
    for name, options in found.items():
        lines = (f"  {json.dumps(option)}: {json.dumps(values)}" for option, values in options.items())
        parts.append(f'"{name}": {{\n' + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def test_commands_and_options_are_those_recorded() -> None:
    found = json.loads(json.dumps({name: options_of(command) for name, command in commands()}))
    if "RECORD_OPTIONS" in os.environ:
        RECORD.write_text(one_line_per_option(found))
        pytest.skip("recorded")
    recorded = json.loads(RECORD.read_text())
    assert list(found) == list(recorded)
    for name, options in found.items():
        assert options == recorded[name], f"{name}: changed on purpose? Then record it anew, see above"


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_options_are_spelled_with_dashes(name: str) -> None:
    for option in options_of(dict(commands())[name]):
        assert "_" not in option and (option.isupper() or option.startswith("-"))
