"""The folder of an evaluation: what lies where, and which parts are up to date.

config.json              the options, as they were understood
rows.jsonl               the rows that are asked
systems.json             {NAME: {"label", "seed", ...}}
plan.json                {NAME: {MEASURE: settings}}: what each part has to be made of; other parts are old ones
answers/NAME.jsonl       what a system wrote
parts/NAME/MEASURE.json  {"settings", "seconds", "result"}; made again where what it follows from has changed
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

from prosg.checkpoints.load import trained_model
from prosg.data.row import Row, read_rows, row_to_dict, write_rows
from prosg.evaluation.answer_cache import Answer
from prosg.evaluation.config import MEASURES, EvalConfig, SystemConfig
from prosg.evaluation.results import Run
from prosg.evaluation.rows import kinds_of
from prosg.evaluation.system_result import system_result
from prosg.utils.io import read_json, write_json, write_lines
from prosg.utils.options import build
from prosg.utils.replaceable import FolderKind
from prosg.utils.store import hash_json, read_log

__all__ = ["check_folder", "read_results", "settings_of", "stale_measures", "write_answers", "write_part", "write_plan"]

OWN = FolderKind("an evaluation", "config.json", ("systems", "measures"), ("plan.json", "systems.json", "rows.jsonl"))


def check_folder(folder: Path) -> None:
    """Raises ValueError for a folder with files of another command that an evaluation would replace."""
    if OWN.is_marked(folder):
        return
    for name in (OWN.marker, *OWN.parts):
        if (folder / name).exists():
            raise ValueError(f"{folder}: holds {name}, but no evaluation; not replaced. Name another folder (--out)")


def write_plan(config: EvalConfig, rows: Sequence[Row]) -> None:
    """Writes what is asked, of whom, and what each part has to be made of."""
    folder = config.folder
    write_json(folder / "config.json", dataclasses.asdict(config))
    write_rows(folder / "rows.jsonl", rows)
    systems = {name: dataclasses.asdict(config.system(name)) for name in config.systems}
    write_json(folder / "systems.json", systems)
    hashed = _hash_rows(rows)
    plan = {
        name: {measure: settings_of(config, name, measure, hashed) for measure in config.measures}
        for name in config.systems
    }
    write_json(folder / "plan.json", plan)


def write_part(
    config: EvalConfig,
    name: str,
    measure: str,
    rows: Sequence[Row],
    result: Any,
    seconds: float,
    about: Mapping[str, Any],
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
    """
    settings = settings_of(config, name, measure, _hash_rows(rows))
    content = {"settings": settings, **about, "seconds": round(seconds, 2), "result": result}
    write_json(config.folder / "parts" / name / f"{measure}.json", content)


def write_answers(config: EvalConfig, name: str, answers: Sequence[Answer]) -> None:
    """Writes answers/NAME.jsonl, whole."""
    lines = (json.dumps(answer._asdict(), ensure_ascii=False) for answer in answers)
    write_lines(config.folder / "answers" / f"{name}.jsonl", lines)


def stale_measures(config: EvalConfig, name: str, rows: Sequence[Row]) -> list[str]:
    """The measures of a system that are missing, or were made under other settings."""
    stale, hashed = [], _hash_rows(rows)
    for measure in config.measures:
        path = config.folder / "parts" / name / f"{measure}.json"
        made = measure != "accuracy" or (config.folder / "answers" / f"{name}.jsonl").exists()
        if not (made and path.exists() and _made_of(path, settings_of(config, name, measure, hashed))):
            stale.append(measure)
    return stale


def _made_of(path: Path, settings: Mapping[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text("utf-8"))["settings"] == json.loads(json.dumps(settings)))
    except (json.JSONDecodeError, KeyError, TypeError):
        return False


def settings_of(config: EvalConfig, name: str, measure: str, rows: str) -> dict[str, Any]:
    """All that a part follows from: `rows` is a hash of them, files stand by their sizes and times of change."""
    system = dataclasses.asdict(config.system(name))
    for label in ("label", "seed"):
        system.pop(label)
    own: dict[str, Any] = {}
    if measure == "accuracy":
        own = {"generation": dataclasses.asdict(config.generation), "rows": rows}
    elif measure == "perplexity":
        own = {"rows": rows, "end_token": config.generation.end_token}
    else:
        own = {measure: dataclasses.asdict(getattr(config, measure))}
    data: dict[str, Any] = {"seed": config.data.seed, "split": config.data.split, "train": config.data.train}
    if measure == "curve":
        data["kinds"] = kinds_of(config)
    return {"system": system, "files": _stamps(config.system(name)), "data": data, **own}


def _stamps(system: SystemConfig) -> list[list[Any]]:
    """Path, size and time of change of every file of a system."""
    stamps = []
    for name in filter(None, (system.model, system.base, system.initial, system.anchor, system.tokenizer)):
        path = trained_model(name)
        files = sorted(file for file in path.glob("*") if file.is_file()) if path.is_dir() else [path]
        stamps += [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.exists()]
    return stamps


def _hash_rows(rows: Sequence[Row]) -> str:
    return hash_json({"rows": [row_to_dict(row) for row in rows]})


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
    rows = {row.id: row for row in read_rows(folder / "rows.jsonl", need_answers=False)}
    systems, missing = [], []
    for name, options in read_json(folder / "systems.json").items():
        wanted = [measure for measure in MEASURES if measure in config["measures"]]
        parts = {measure: _part(folder / "parts" / name / f"{measure}.json", plan[name][measure]) for measure in wanted}
        missing += [f"{name}: {measure}" for measure, part in parts.items() if part is None]
        answers = [Answer(**line) for line in read_log(folder / "answers" / f"{name}.jsonl")]
        judged = {line["id"]: line for line in read_log(folder / "judge" / f"{name}.jsonl")}
        systems.append(system_result(folder, name, build(SystemConfig, options), rows, parts, answers, judged))
    notes = json.loads((folder / "notes.json").read_text("utf-8")) if (folder / "notes.json").exists() else []
    return Run(folder, config, rows, systems, missing, notes)


def _part(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A part, if it is there and was made under these settings: what is left of others counts as missing."""
    part = read_json(path) if path.exists() else None
    return part if part is not None and part.get("settings") == settings else None
