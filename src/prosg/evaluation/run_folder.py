"""Reads the folder of an evaluation for those who judge or rate its answers.

RUN/rows.jsonl             the rows of the data set that were answered
RUN/answers/NAME.jsonl     one system's answers: {"id", "text", ...}
RUN/systems.json           {NAME: {"label", ...}}: the systems' names in reports; optional
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.row import Row, read_rows
from prosg.utils.file_hashes import hash_file
from prosg.utils.io import iter_jsonl, read_json
from prosg.utils.store import read_log

__all__ = ["NOT_WRITTEN", "AnswerSet", "RunFolder", "check_answers", "read_run"]

NOT_WRITTEN = "is not what was written"


class AnswerSet(NamedTuple):
    """One system's answers.

    Attributes:
        label: The system's name in reports.
        answers: Texts by row id.
    """

    label: str
    answers: Mapping[str, str]


class RunFolder(NamedTuple):
    """The rows and answers of one evaluation.

    Attributes:
        path: The folder.
        rows: By id, in the order of the file.
        systems: By the names of their files of answers, in alphabetical order.
    """

    path: Path
    rows: Mapping[str, Row]
    systems: Mapping[str, AnswerSet]


def read_run(path: str | Path) -> RunFolder:
    """Reads an evaluation's rows and answers.

    Raises:
        ValueError: For a missing file, a line that is cut short or no answer, an answer to an unknown row or a second
            one to the same row; the message names the file and line.
    """
    folder = Path(path)
    if not (folder / "rows.jsonl").is_file():
        raise ValueError(f"{folder}: has no rows.jsonl; name the folder of an evaluation")
    rows = {row.id: row for row in read_rows(folder / "rows.jsonl", need_answers=False)}
    files = sorted((folder / "answers").glob("*.jsonl"))
    if not files:
        raise ValueError(f"{folder / 'answers'}: has no NAME.jsonl with a system's answers")
    descriptions = _read_systems(folder / "systems.json")
    systems = {}
    for file in files:
        description = descriptions.get(file.stem, {})
        if not isinstance(description, Mapping) or not isinstance(description.get("label", ""), str):
            raise ValueError(f"{folder / 'systems.json'}: {file.stem} must be an object with the text 'label'")
        check_answers(folder, file.stem)
        systems[file.stem] = AnswerSet(description.get("label") or file.stem, _read_answers(file, rows))
    return RunFolder(folder, rows, systems)


def check_answers(folder: Path, name: str) -> None:
    """Raises ValueError where a system's answers are not those that `prosg eval` recorded, if it recorded any."""
    file, path = folder / "answers" / f"{name}.jsonl", folder / "parts" / name / "accuracy.json"
    part = read_json(path) if path.exists() else {}
    if "answers" in part:
        whole = file.exists() and hash_file(file) == part["answers"]
    else:  # of a version that recorded their number alone
        result = part.get("result")
        count = result.get("answers") if isinstance(result, dict) else None
        whole = count is None or len(read_log(file)) == count
    if not whole:
        raise ValueError(f"{file}: {NOT_WRITTEN}; prosg eval writes it again")


def _read_systems(path: Path) -> Mapping[str, Any]:
    """The descriptions of the systems by name; {} where there is no file."""
    return read_json(path) if path.exists() else {}


def _read_answers(file: Path, rows: Mapping[str, Row]) -> dict[str, str]:
    answers: dict[str, str] = {}
    for number, data in iter_jsonl(file):
        row_id, text = (data.get("id"), data.get("text")) if isinstance(data, Mapping) else (None, None)
        if not (isinstance(row_id, str) and isinstance(text, str)):
            raise ValueError(f"{file}:{number}: a line is an object with the strings 'id' and 'text'")
        if row_id not in rows:
            raise ValueError(f"{file}:{number}: rows.jsonl has no row {row_id!r}")
        if row_id in answers:
            raise ValueError(f"{file}:{number}: a second answer for {row_id!r}; each row has one")
        answers[row_id] = text
    return answers
