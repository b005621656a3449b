"""The folder of an evaluation: what lies where, and which parts are up to date.

config.json              the options, as they were understood
rows.jsonl               the rows that are asked
systems.json             {NAME: {"label", "seed", ...}}
plan.json                {NAME: {MEASURE: settings}}: what each part has to be made of; other parts are old ones
answers/NAME.jsonl       what a system wrote
parts/NAME/MEASURE.json  {"settings", "seconds", "result", "sha256" of the result, "answers": that of their file}; made
                         again where what it follows from has changed, and where a hash says that it is damaged
hashes.json              hashes of models' files, which are read once
cache.sqlite             answers by all that they follow from: a stopped run goes on where it was
about.json, notes.json   how it was made; sections that whoever ran it adds to the report
judge/, ratings/         what `prosg judge` and `prosg rate` add
report.html, report.md, results.json
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prosg.data.row import Row, read_rows, write_rows
from prosg.evaluation.answer_cache import Answer
from prosg.evaluation.config import MEASURES, EvalConfig, SystemConfig
from prosg.evaluation.results import Run
from prosg.evaluation.run_folder import NOT_WRITTEN, check_answers
from prosg.evaluation.settings import hash_rows, kept_hashes, settings_of
from prosg.evaluation.system_result import system_result
from prosg.utils.contents import damage
from prosg.utils.file_hashes import FileHashes, hash_file
from prosg.utils.inside import inside
from prosg.utils.io import read_json, write_json, write_lines
from prosg.utils.options import build
from prosg.utils.replaceable import FolderKind
from prosg.utils.store import hash_json, read_log

__all__ = ["check_folder", "read_results", "stale_measures", "write_answers", "write_part", "write_plan"]

OWN = FolderKind("an evaluation", "config.json", ("systems", "measures"), ("plan.json", "systems.json", "rows.jsonl"))


def check_folder(folder: Path) -> None:
    """Raises ValueError for a folder with files of another command that an evaluation would replace."""
    if OWN.is_marked(folder):
        return
    for name in (OWN.marker, *OWN.parts):
        if (folder / name).exists():
            raise ValueError(f"{folder}: holds {name}, but no evaluation; not replaced. Name another folder (--out)")


def write_plan(config: EvalConfig, rows: Sequence[Row], hashes: FileHashes | None = None) -> None:
    """Writes what is asked, of whom, and what each part has to be made of."""
    hashes = hashes or kept_hashes(config)
    folder = config.folder
    write_json(folder / "config.json", dataclasses.asdict(config))
    write_rows(folder / "rows.jsonl", rows)
    systems = {name: dataclasses.asdict(config.system(name)) for name in config.systems}
    write_json(folder / "systems.json", systems)
    hashed = hash_rows(rows)
    plan = {
        name: {measure: settings_of(config, name, measure, hashed, hashes) for measure in config.measures}
        for name in config.systems
    }
    write_json(folder / "plan.json", plan)
    hashes.save()


def write_part(
    config: EvalConfig,
    name: str,
    measure: str,
    rows: Sequence[Row],
    result: Any,
    seconds: float,
    about: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Writes what a measure gave for a system.

    Args:
        config: The evaluation.
        name: Of the system.
        measure: Its name.
        rows: The rows that were asked.
        result: JSON values; {"left_out": why} for what this system cannot be measured by.
        seconds: That it took.
        about: Backbone, fingerprint and memory of the system.
        settings: What the part follows from, as it was before measuring; as it is now by default.
    """
    if settings is None:
        settings = settings_of(config, name, measure, hash_rows(rows), kept_hashes(config))
    content = {"settings": settings, **about, "seconds": round(seconds, 2), "result": result}
    content["sha256"] = _hash_result(result)
    answers = config.folder / "answers" / f"{name}.jsonl"
    if measure == "accuracy" and answers.exists():
        content["answers"] = hash_file(answers)
    write_json(config.folder / "parts" / name / f"{measure}.json", content)


def write_answers(config: EvalConfig, name: str, answers: Sequence[Answer]) -> None:
    """Writes answers/NAME.jsonl, whole, and removes the part that was about other answers."""
    (config.folder / "parts" / name / "accuracy.json").unlink(missing_ok=True)
    lines = (json.dumps(answer._asdict(), ensure_ascii=False) for answer in answers)
    write_lines(config.folder / "answers" / f"{name}.jsonl", lines)


def stale_measures(config: EvalConfig, name: str, rows: str, hashes: FileHashes) -> dict[str, dict[str, Any]]:
    """The measures of a system that are missing, damaged or were made under other settings -> the settings of now.

    `rows` is a hash of what is asked.
    """
    settings = {measure: settings_of(config, name, measure, rows, hashes) for measure in config.measures}
    stale = {}
    for measure, now in settings.items():
        try:
            part = _part(config.folder, name, measure, json.loads(json.dumps(now)))
        except ValueError:  # made again
            part = None
        if part is None or (measure == "accuracy" and not (config.folder / "answers" / f"{name}.jsonl").exists()):
            stale[measure] = now
    return stale


def _part(folder: Path, name: str, measure: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A part, if it is there and was made under these settings: what is left of others counts as missing.

    Raises:
        ValueError: for a file that is not what was written: the part's own, or that of its answers.
    """
    path = folder / "parts" / name / f"{measure}.json"
    part = read_json(path) if path.exists() else None
    if part is None or part.get("settings") != settings:
        return None
    if (
        "result" not in part
        or "seconds" not in part
        or part.get("sha256", "") not in ("", _hash_result(part["result"]))
    ):
        raise ValueError(f"{path}: {NOT_WRITTEN}")
    if measure == "accuracy":
        check_answers(folder, name)
    return part


def _hash_result(result: Any) -> str:
    return hash_json(json.loads(json.dumps(result)))


def read_results(path: str | Path) -> Run:
    """Reads the folder of an evaluation.

    Raises:
        ValueError: for a folder that is no evaluation's, or holds what does not fit together.
    """
    folder = Path(path)
    for name in ("config.json", "rows.jsonl", "systems.json", "plan.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: has no {name}; name the folder of an evaluation (prosg eval)")
    config, plan = read_json(folder / "config.json"), read_json(folder / "plan.json")
    asked = read_rows(folder / "rows.jsonl", need_answers=False)
    rows = {row.id: row for row in asked}
    wanted = [measure for measure in MEASURES if measure in config["measures"]]
    if {part["rows"] for parts in plan.values() for part in parts.values() if "rows" in part} - {hash_rows(asked)}:
        raise ValueError(f"{folder / 'rows.jsonl'}: {NOT_WRITTEN}; prosg eval writes it again")
    if wrong := damage(folder / "judge"):
        raise ValueError(f"{folder / 'judge'}: {wrong}; prosg judge writes it again")
    described = read_json(folder / "systems.json")
    if described.keys() != plan.keys():
        raise ValueError(f"{folder / 'systems.json'}: has other systems than plan.json; prosg eval writes both again")
    systems, missing = [], []
    for name, options in described.items():
        inside(folder / "parts", name, f"{folder / 'systems.json'}: a system's name")
        parts: dict[str, dict[str, Any] | None] = {}
        for measure in wanted:
            try:
                parts[measure], why = _part(folder, name, measure, plan[name].get(measure, {})), ""
            except ValueError as error:
                parts[measure], why = None, f" ({error})"
            missing += [f"{name}: {measure}{why}"] if parts[measure] is None else []
        file = folder / "answers" / f"{name}.jsonl"
        answers = [Answer(**line) for line in read_log(file)] if parts.get("accuracy") is not None else []
        judged = {line["id"]: line for line in read_log(folder / "judge" / f"{name}.jsonl")}
        systems.append(system_result(folder, name, build(SystemConfig, options), rows, parts, answers, judged))
    notes = json.loads((folder / "notes.json").read_text("utf-8")) if (folder / "notes.json").exists() else []
    return Run(folder, config, rows, systems, missing, notes)
