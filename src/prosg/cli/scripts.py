"""What scripts beside the package share with the commands: a parser, checks before any work, errors on one line.

parser = ScriptParser(__doc__)
parser.add_argument("--repeats", type=positive_int, default=7)
parser.add_out("JSON file for the rows")
...
if __name__ == "__main__":
    run_script(main)
"""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from prosg.cli.common import check_new_file
from prosg.cli.messages import message_of
from prosg.cli.parser import Parser, complain, path_text
from prosg.utils.outside import parse_json, read_text
from prosg.utils.values import check_number, check_whole, shown

__all__ = [
    "ScriptParser",
    "file_to_read",
    "natural_float",
    "natural_int",
    "natural_ints",
    "positive_float",
    "positive_int",
    "rows_before",
    "run_script",
]


class ScriptParser(Parser):
    """The commands' parser with a script's docstring as its help, and a file to write that is checked first."""

    def __init__(self, description: str | None = None, **options: Any) -> None:
        super().__init__(description or "", **options)
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self._checks_out: bool | None = None

    def add_out(self, text: str, *, merges: bool = False, required: bool = False) -> None:
        """Adds --out, a file to write, and --overwrite. With `merges` it is one of rows to which more are added."""
        self._checks_out = merges
        self.add_argument("--out", type=path_text, required=required, help=text)  # a Path, when it is checked
        if not merges:
            self.add_argument("--overwrite", action="store_true", help="replace the file of --out")

    def parse_known_args(self, *args: Any, **options: Any) -> tuple[Any, list[str]]:
        """As argparse's, and refuses an --out that could not be written at the end."""
        found: tuple[Namespace, list[str]] = super().parse_known_args(*args, **options)
        if self._checks_out is not None and found[0].out is not None:
            try:
                found[0].out = _checked_out(found[0].out, self._checks_out, getattr(found[0], "overwrite", True))
            except (ValueError, OSError) as error:
                self.error(message_of(error) or str(error))
        return found


def _checked_out(text: str, merges: bool, overwrite: bool) -> Path:
    out = check_new_file("--out", text, overwrite or merges)
    if merges:
        rows_before(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise ValueError(f"--out {out}: its folder cannot be written to; name another place")
    return out


def rows_before(path: Path | None) -> list[dict[str, Any]]:
    """The rows of a JSON file of rows; none where there is no file yet. ValueError for a file of anything else."""
    if path is None or not path.exists():
        return []
    rows = parse_json(read_text(path), str(path))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: is no file of rows, to which more could be added; name another")
    return rows


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Runs a script, and ends with its status: 2, after one line, for what a user can mend; else with a traceback."""
    try:
        status = main()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        status = 130
    except Exception as error:
        message = message_of(error)
        if message is None or os.environ.get("PROSG_DEBUG"):
            raise
        status = complain(message)
    raise SystemExit(status)


def natural_int(text: str) -> int:
    """Reads a whole number, 0 or more."""
    return _whole(text, 0)


def positive_int(text: str) -> int:
    """Reads a whole number, 1 or more."""
    return _whole(text, 1)


def natural_ints(text: str) -> list[int]:
    """Reads whole numbers, 0 or more, like 1,2,3; none from an empty text."""
    return [_whole(part, 0) for part in text.split(",")] if text else []


def natural_float(text: str) -> float:
    """Reads a number, 0 or more."""
    value = _number(text, "0 or more")
    if value < 0:
        raise argparse.ArgumentTypeError(f"{shown(text)} must be a number, 0 or more")
    return value


def positive_float(text: str) -> float:
    """Reads a number above 0."""
    value = _number(text, "above 0")
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{shown(text)} must be a number above 0")
    return value


def file_to_read(text: str) -> Path:
    """Reads the path of a file or folder that is there."""
    path = _path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{path}: no such file or folder")
    return path


def _path(text: str) -> Path:
    return Path(path_text(text))


def _whole(text: str, least: int) -> int:
    try:
        value = int(check_whole("it", int(text)))
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{shown(text)} must be a whole number, {least} or more, below 2^63")
    return value


def _number(text: str, allowed: str) -> float:
    try:
        return check_number("it", float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} must be a number, {allowed}") from None
