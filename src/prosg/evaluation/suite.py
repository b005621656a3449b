"""`prosg eval`: systems x measures, each part a file that is made once, then one report.

OUT/config.json              the options, as they were understood
OUT/rows.jsonl               the rows that are asked
OUT/systems.json             {NAME: {"label", "seed", ...}}
OUT/answers/NAME.jsonl       what a system wrote
OUT/parts/NAME/MEASURE.json  {"settings", "seconds", "result"}; made again where what it follows from has changed
OUT/cache.sqlite             answers by all that they follow from: a stopped run goes on where it was
OUT/judge, OUT/ratings       what `prosg judge` and `prosg rate` add
OUT/report.html, report.md, results.json

Each system is a process of its own, `--jobs` of them side by side.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prosg.commands import write_json
from prosg.data.kinds import DEMO_KINDS, KINDS, Setting, make_rows
from prosg.data.musi.store import locked
from prosg.data.record import Row, read_rows, row_to_dict, write_rows
from prosg.evaluation.answers import Answers, answer_key
from prosg.evaluation.conditions import MEAN_PROMPTS
from prosg.evaluation.config import EvalConfig, SystemConfig, load_config
from prosg.jobs import Job, run_jobs, write_progress
from prosg.machine import commit, processor, versions

__all__ = ["asked_rows", "evaluate", "evaluate_system", "kinds_of", "settings_of", "training_prompts", "write_part"]


def evaluate(file: str, *, out: str | None = None, jobs: int = 2, live: bool = True) -> int:
    """All systems, then the report. Returns the exit status: 1 where a system failed or replies are missing."""
    from prosg.evaluation.remote import check_endpoint_system
    from prosg.evaluation.run_report import write_reports

    config = load_config(file, out)
    _check_kinds(config)
    for name in config.systems:
        if config.system(name).endpoint:
            check_endpoint_system(config, name)
    rows = asked_rows(config)
    start = time.perf_counter()
    with locked(config.folder):
        _write_plan(config, rows)
        work = []
        for name in config.systems:
            stale = stale_measures(config, name, rows)
            if not stale:
                continue
            done = config.folder / "parts" / name / "done"
            done.unlink(missing_ok=True)
            command = ("eval", file, "--out", config.out, "--system", name)
            work.append(
                Job(
                    name,
                    command,
                    done=done,
                    progress=done.with_name("progress.json"),
                    log=done.with_name("log.txt"),
                    seconds=30.0 * len(stale),
                )
            )
        run_jobs(work, jobs, live)
        about = {
            "command": shlex.join(["prosg", *sys.argv[1:]]),
            "machine": f"{processor()}, {os.cpu_count()} cores, {jobs} processes side by side",
            "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
            "commit": commit(),
        }
        if work:
            about["seconds"] = f"{time.perf_counter() - start:.0f} (of the call that measured last)"
            write_json(config.folder / "about.json", about)
        missing = write_reports([config.folder], config.folder)
    return 1 if missing else 0


def evaluate_system(file: str, name: str, *, out: str | None = None) -> int:
    """What one system lacks. ValueError for a system that cannot be what its options say."""
    config = load_config(file, out)
    rows = asked_rows(config)
    folder = config.folder / "parts" / name
    folder.mkdir(parents=True, exist_ok=True)
    stale = stale_measures(config, name, rows)
    status = 0
    if config.system(name).endpoint:
        from prosg.evaluation.remote import evaluate_endpoint

        status = evaluate_endpoint(config, name, rows, stale)
    elif stale:
        _evaluate_local(config, name, rows, stale)
    (folder / "progress.json").unlink(missing_ok=True)
    (folder / "done").touch()
    return status


def _evaluate_local(config: EvalConfig, name: str, rows: Sequence[Row], stale: Sequence[str]) -> None:
    from prosg.adapter import model_fingerprint
    from prosg.evaluation.parts import PARTS, Subject
    from prosg.evaluation.systems import open_model

    folder = config.folder / "parts" / name
    system = config.system(name)
    model = open_model(system, config.device)
    about = {"backbone": model.backbone.config.model_type, "fingerprint": model_fingerprint(model)}
    kept = Answers(Path(config.cache) if config.cache else config.folder / "cache.sqlite")
    for number, measure in enumerate(stale):

        def tell(share: float, note: str = "", number: int = number, measure: str = measure) -> None:
            write_progress(folder / "progress.json", (number + share) / len(stale), f"{measure} {note}".strip())

        tell(0.0)
        start = time.perf_counter()
        result = PARTS[measure](Subject(config, name, system, model, rows, kept, tell))
        write_part(config, name, measure, rows, result, time.perf_counter() - start, about)
    kept.close()


def write_part(
    config: EvalConfig,
    name: str,
    measure: str,
    rows: Sequence[Row],
    result: Any,
    seconds: float,
    about: dict[str, Any],
) -> None:
    """Keep what a measure gave; `about` tells what was measured. {"left_out": why} is the result of what cannot be."""
    settings = settings_of(config, name, measure, rows)
    content = {"settings": settings, **about, "seconds": round(seconds, 2), "result": result}
    write_json(config.folder / "parts" / name / f"{measure}.json", content)


def stale_measures(config: EvalConfig, name: str, rows: Sequence[Row]) -> list[str]:
    """The measures of a system that are missing, or were made under other settings."""
    stale = []
    for measure in config.measures:
        path = config.folder / "parts" / name / f"{measure}.json"
        made = measure != "accuracy" or (config.folder / "answers" / f"{name}.jsonl").exists()
        if not (made and path.exists() and _same(path, settings_of(config, name, measure, rows))):
            stale.append(measure)
    return stale


def _same(path: Path, settings: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text("utf-8"))["settings"] == json.loads(json.dumps(settings)))
    except (json.JSONDecodeError, KeyError, TypeError):
        return False


def settings_of(config: EvalConfig, name: str, measure: str, rows: Sequence[Row]) -> dict[str, Any]:
    """All that a part follows from; files by their sizes and times of change."""
    system = dataclasses.asdict(config.system(name))
    for passing in ("label", "seed"):
        system.pop(passing)
    own: dict[str, Any] = {}
    if measure == "accuracy":
        own = {"generation": dataclasses.asdict(config.generation), "rows": _hash(rows)}
    elif measure == "perplexity":
        own = {"rows": _hash(rows), "end_token": config.generation.end_token}
    else:
        own = {measure: dataclasses.asdict(getattr(config, measure))}
    data: dict[str, Any] = {"seed": config.data.seed, "split": config.data.split, "train": config.data.train}
    if measure == "curve":
        data["kinds"] = kinds_of(config)
    return {"system": system, "files": _stamp(config.system(name)), "data": data, **own}


def _stamp(system: SystemConfig) -> list[list[Any]]:
    found = []
    for given in filter(None, (system.model, system.base, system.initial, system.tokenizer)):
        path = Path(given)
        files = sorted(file for file in path.glob("*") if file.is_file()) if path.is_dir() else [path]
        found += [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.exists()]
    return found


def _hash(rows: Sequence[Row]) -> str:
    return answer_key({"rows": [row_to_dict(row) for row in rows]})


def kinds_of(config: EvalConfig) -> list[str]:
    """Kinds of made rows and of the curve."""
    return list(config.data.kinds or DEMO_KINDS)


def asked_rows(config: EvalConfig) -> list[Row]:
    """The rows of the file, or made ones. ValueError as `read_rows` and `make_rows`."""
    data = config.data
    if data.file:
        return read_rows(data.file)[: data.rows or None]
    low, high = data.sentences
    return make_rows(kinds_of(config), data.rows, data.seed, data.split, sentences=(low, high))


def training_prompts(config: EvalConfig, kinds: Sequence[str]) -> dict[str, list[str]]:
    """By kind, for the mean update."""
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    if config.data.train:
        for row in read_rows(config.data.train):
            if row.kind in found and len(found[row.kind]) < MEAN_PROMPTS:
                found[row.kind].append(row.prompt)
        return found
    made = [kind for kind in found if kind in KINDS]
    return found | {
        kind: [row.prompt for row in make_rows((kind,), MEAN_PROMPTS, config.data.seed, "train")] for kind in made
    }


def _check_kinds(config: EvalConfig) -> None:
    for kind in kinds_of(config):
        if kind not in KINDS:
            raise ValueError(f"data.kinds has {kind}; allowed: {', '.join(KINDS)}")
    if "capacity" in config.measures:
        capacity = config.capacity
        if capacity.kind not in KINDS:
            raise ValueError(f"capacity.kind is {capacity.kind!r}; allowed: {', '.join(KINDS)}")
        for number in capacity.items:
            try:
                Setting(items=(number, number)).check(KINDS[capacity.kind])
            except ValueError as error:
                raise ValueError(f"capacity.{error}") from None


def _write_plan(config: EvalConfig, rows: Sequence[Row]) -> None:
    folder = config.folder
    write_json(folder / "config.json", dataclasses.asdict(config))
    write_rows(folder / "rows.jsonl", rows)
    systems = {name: dataclasses.asdict(config.system(name)) for name in config.systems}
    write_json(folder / "systems.json", systems)
