"""Lines of a run's files of judge's results, read again and checked: somebody may have edited or damaged them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

from prosg.data.row import derived_id
from prosg.evaluation.judge.protocol import FAIL, PASS, UNPARSED
from prosg.evaluation.run_folder import RunFolder
from prosg.utils.fields import COUNT, check_record
from prosg.utils.store import read_log

__all__ = ["PREFERENCES", "AnswerHashes", "answer_hashes", "pair_hashes", "read_judged_answers", "read_judged_pairs"]

AnswerHashes = Mapping[str, Mapping[str, str]]
"""By system and row id: the hash of prompt and answer that a line of results has."""

PREFERENCES = ("first", "second", "tie", UNPARSED)
"""Outcomes of a comparison."""
RESULTS = (PASS, FAIL, UNPARSED)
CURE = "delete the line to have it made again"


def answer_hashes(folder: RunFolder) -> AnswerHashes:
    """The hashes of a run's answers as they are now."""
    return {
        name: {row_id: derived_id(folder.rows[row_id].prompt, text) for row_id, text in system.answers.items()}
        for name, system in folder.systems.items()
    }


def pair_hashes(path: Path, hashes: AnswerHashes) -> dict[str, list[str]]:
    """By row id, the hashes of both answers that a file of preferences, A--B.jsonl, is about; {} of unknown systems."""
    names = next((pair for pair in permutations(hashes, 2) if "--".join(pair) == path.stem), None)
    if names is None:
        return {}
    ours, theirs = (hashes[name] for name in names)
    return {row_id: [ours[row_id], theirs[row_id]] for row_id in ours if row_id in theirs}


def read_judged_answers(path: Path) -> list[dict[str, Any]]:
    """Reads the results of one system's answers.

    Raises:
        ValueError: for a line that is no result, naming file, line and field.
    """
    lines = []
    for where, line in _checked_lines(path, {"id": str, "result": str, "stages": list}, "result", RESULTS):
        for stage in line["stages"]:
            if not isinstance(stage, dict):
                raise ValueError(f"{where}: stages holds {stage!r:.40}; each must be an object: {CURE}")
            check_record(stage, {"stage": COUNT, "result": str}, where)
            _check_word(stage, "result", RESULTS, where)
        lines.append(line)
    return lines


def read_judged_pairs(path: Path) -> list[dict[str, Any]]:
    """Reads the preferences between two systems' answers.

    Raises:
        ValueError: for a line that is no preference, naming file, line and field.
    """
    lines = []
    for where, line in _checked_lines(path, {"id": str, "preferred": str, "orders": list}, "preferred", PREFERENCES):
        answers = line.get("answers", [])  # older lines do not say which they are about
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"{where}: answers is {answers!r:.40}; it must be a list of texts: {CURE}")
        lines.append(line)
    return lines


def _checked_lines(
    path: Path, fields: Mapping[str, type], word: str, allowed: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each line that has these fields, and in one of them an allowed word, with where it stands."""
    for number, line in enumerate(read_log(path), 1):
        where = f"{path}:{number}"
        check_record(line, fields, where)
        _check_word(line, word, allowed, where)
        yield where, line


def _check_word(line: dict[str, Any], name: str, allowed: tuple[str, ...], where: str) -> None:
    if line[name] not in allowed:
        raise ValueError(f"{where}: {name} is {line[name]!r:.40}; it must be {', '.join(allowed)}: {CURE}")
