"""Evaluations for tests: small configurations, jobs that run here, and finished runs made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import prosg
from prosg.cli import main
from prosg.data.row import Row, Stage
from prosg.evaluation.answer_cache import Answer
from prosg.evaluation.config import EvalConfig
from prosg.evaluation.config_file import load_config
from prosg.evaluation.results import Run
from prosg.evaluation.store import read_results, write_answers, write_part, write_plan
from prosg.utils.jobs import Job

DEMO_BASE = str(Path(prosg.__file__).parent / "demo" / "assets" / "base")
SMALL: dict[str, Any] = {
    "batch_size": 2,
    "data": {"rows": 4, "sentences": [1, 1]},
    "generation": {"max_tokens": 40},
    "curve": {"rows": 3, "sentences": [1, 2]},
    "capacity": {"items": [6], "rows": 2, "sentences": 1},
    "overhead": {"batch": 2, "tokens": 4, "steps": 2, "repeats": 1},
}


def write_config(folder: Path, systems: Any, file: str = "eval.yaml", **changes: Any) -> str:
    """A small evaluation's file; groups of options are merged with those of `SMALL`."""
    content = {"out": str(folder / "out"), "systems": systems, **SMALL}
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) and key in SMALL else value
    (folder / file).write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / file)


def run_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Systems are measured in this process, one after the other; returns the list that their names go to."""
    measured: list[str] = []

    def run_jobs(jobs: Sequence[Job], width: int, live: bool, *, keep_going: bool) -> dict[str, str]:
        failed = {}
        for job in jobs:
            measured.extend(job.command[-1].split(","))
            if main(job.command) or not job.done.exists():
                failed[job.name] = f"{job.name} failed"
        return failed

    monkeypatch.setattr("prosg.evaluation.runner.run_jobs", run_jobs)
    return measured


def jobs_run_here(monkeypatch: pytest.MonkeyPatch, caller: str) -> list[str]:
    """Jobs of the module `caller` and of its evaluation run in this process, one after the other, and must not fail.

    Returns:
        The list that the names of those that were not done go to.
    """
    names: list[str] = []

    def run_jobs(jobs: Sequence[Job], width: int, live: bool, keep_going: bool = False) -> dict[str, str]:
        for job in jobs:
            if not job.done.exists():
                names.append(job.name)
                assert main(job.command) == 0
                assert job.done.exists()
        return {}

    for place in (caller, "prosg.evaluation.runner"):
        monkeypatch.setattr(f"{place}.run_jobs", run_jobs)
    return names


def part(out: Path, system: str, measure: str) -> dict[str, Any]:
    """What a measure gave."""
    result: dict[str, Any] = json.loads((out / "parts" / system / f"{measure}.json").read_text())["result"]
    return result


def answers(out: Path, system: str) -> dict[str, dict[str, Any]]:
    """By the row's id."""
    lines = (out / "answers" / f"{system}.jsonl").read_text().splitlines()
    return {one["id"]: one for one in map(json.loads, lines)}


def results(out: Path, **wanted: Any) -> list[dict[str, Any]]:
    """Rows of results.json that have these values."""
    rows = json.loads((out / "results.json").read_text())["rows"]
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


# -- runs made by hand


def code_row(number: int) -> Row:
    """A row of two stages: a sentence, then the code."""
    code = f"{number}{number}"
    stages = (
        Stage("tell a story", {"type": "sentences", "min": 1, "max": 1}, 0, ""),
        Stage("give the code", {"type": "exact", "text": f"Code: {code}"}, 7, "\nCode:"),
    )
    return Row(f"row-{number}", f"Tell it, then the code {code}.", f"It was.\nCode: {code}", "code", stages)


RIGHT, NO_STORY, NO_CODE = "It was.\nCode: {0}{0}", "It was. It is.\nCode: {0}{0}", "It was.\nCode: 0"


def finished(
    folder: Path,
    rows: Sequence[Row],
    systems: Mapping[str, Mapping[str, Any]],
    texts: Mapping[str, Sequence[str]],
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    **changes: Any,
) -> EvalConfig:
    """A run as `prosg eval` leaves it: systems, what they wrote, and what other measures gave, by system."""
    given = parts or {}
    measures = [*(["accuracy"] if texts else []), *dict.fromkeys(name for each in given.values() for name in each)]
    folder.mkdir(parents=True, exist_ok=True)
    file = write_config(folder, {**systems}, **{"measures": measures, **changes})
    config = load_config(file)
    config.folder.mkdir()
    write_plan(config, rows)
    for name in systems:
        (config.folder / "parts" / name).mkdir(parents=True)
        about = {"backbone": "rwkv4", "fingerprint": f"{name}-weights"}
        found = dict(given.get(name, {}))
        if name in texts:
            some = [
                Answer(row.id, text.format(row.id[-1]), 10, "end") for row, text in zip(rows, texts[name], strict=False)
            ]
            write_answers(config, name, some)
            found["accuracy"] = {"answers": len(some)}
        for measure, result in found.items():
            write_part(config, name, measure, rows, result, 1.5, about)
    return config


def read(config: EvalConfig) -> Run:
    return read_results(config.folder)
