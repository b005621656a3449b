"""The folder of an evaluation, as those read it who judge its answers.

RUN/rows.jsonl             the rows that were asked
RUN/answers/NAME.jsonl     a system's answers: {"id", "text", ...}
RUN/systems.json           {NAME: {"label", ...}}; what people call the systems
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.row import Row, read_rows
from prosg.utils.store import read_log

__all__ = ["RunFolder", "System", "read_run"]


class System(NamedTuple):
    """What answered: its label, and its answers by the row's id."""

    label: str
    answers: Mapping[str, str]


class RunFolder(NamedTuple):
    """One evaluation. rows by id, systems by the names of their files, both in the order in which they are found."""

    path: Path
    rows: Mapping[str, Row]
    systems: Mapping[str, System]


def read_run(path: str | Path) -> RunFolder:
    """Read a run's rows and answers. ValueError names the file and line, and what is missing."""
    folder = Path(path)
    if not (folder / "rows.jsonl").is_file():
        raise ValueError(f"{folder}: has no rows.jsonl; name the folder of an evaluation")
    rows = {row.id: row for row in read_rows(folder / "rows.jsonl", need_answers=False)}
    files = sorted((folder / "answers").glob("*.jsonl"))
    if not files:
        raise ValueError(f"{folder / 'answers'}: has no NAME.jsonl with a system's answers")
    about = _about(folder / "systems.json")
    systems = {}
    for file in files:
        told = about.get(file.stem, {})
        if not isinstance(told, Mapping) or not isinstance(told.get("label", ""), str):
            raise ValueError(f"{folder / 'systems.json'}: {file.stem} must be an object with the text 'label'")
        systems[file.stem] = System(told.get("label") or file.stem, _read_answers(file, rows))
    return RunFolder(folder, rows, systems)


def _about(path: Path) -> Mapping[str, Any]:
    """What is told of the systems, by name; nothing where there is no file."""
    try:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}; it must be an object of systems")
    return content


def _read_answers(file: Path, rows: Mapping[str, Row]) -> dict[str, str]:
    answers: dict[str, str] = {}
    for number, data in enumerate(read_log(file), 1):
        name, text = data.get("id"), data.get("text")
        if not (isinstance(name, str) and isinstance(text, str)):
            raise ValueError(f"{file}:{number}: a line is an object with the strings 'id' and 'text'")
        if name not in rows:
            raise ValueError(f"{file}:{number}: rows.jsonl has no row {name!r}")
        if name in answers:
            raise ValueError(f"{file}:{number}: a second answer for {name!r}; each row has one")
        answers[name] = text
    return answers
