"""`prosg eval`: systems x measures, each part a file that is made once, then one report.

OUT/config.json              the options, as they were understood
OUT/rows.jsonl               the rows that are asked
OUT/systems.json             {NAME: {"label", "seed", ...}}
OUT/plan.json                {NAME: {MEASURE: settings}}: what each part has to be made of; other parts are old ones
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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prosg.checkpoints.load import trained_in
from prosg.data.row import Row, row_to_dict, write_rows
from prosg.data.synthetic import KINDS, Setting
from prosg.evaluation.answer_cache import Answers, answer_key
from prosg.evaluation.config import EvalConfig, SystemConfig, load_config
from prosg.evaluation.controls import LEAST_PROMPTS
from prosg.evaluation.rows import asked_rows, kinds_of, training_rows
from prosg.utils.environment import commit, processor, versions
from prosg.utils.io import write_json
from prosg.utils.jobs import Job, run_jobs, write_progress
from prosg.utils.store import locked

__all__ = [
    "evaluate",
    "evaluate_system",
    "settings_of",
    "write_part",
    "write_plan",
]


def evaluate(file: str, *, out: str | None = None, jobs: int = 2, live: bool = True) -> int:
    """All systems, then the report. Returns the exit status: 1 where a system failed or replies are missing."""
    from prosg.evaluation.report.render import write_reports
    from prosg.evaluation.systems.endpoint import check_endpoint_system

    config = load_config(file, out)
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}; it must be at least 1")
    try:
        _check_kinds(config)
        rows = asked_rows(config)
        _check_updates(config, rows)
        stale = {name: found for name in config.systems if (found := stale_measures(config, name, rows))}
        for name in stale:
            if config.system(name).endpoint:
                check_endpoint_system(config, name)
        Answers(config.kept).close()
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    start = time.perf_counter()
    with locked(config.folder):
        write_plan(config, rows)
        work = []
        for name, measures in stale.items():
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
                    seconds=30.0 * len(measures),
                )
            )
        failed = run_jobs(work, jobs, live, keep_going=True)
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
    for told in failed.values():
        print(told, file=sys.stderr)
    if missing:
        print(f"missing: {', '.join(missing)}; the same command goes on", file=sys.stderr)
    print(f"{config.folder / 'report.html'}, report.md, results.json")
    return 1 if missing or failed else 0


def evaluate_system(file: str, name: str, *, out: str | None = None) -> int:
    """What one system lacks. ValueError for a system that cannot be what its options say."""
    config = load_config(file, out)
    rows = asked_rows(config)
    folder = config.folder / "parts" / name
    folder.mkdir(parents=True, exist_ok=True)
    stale = stale_measures(config, name, rows)
    status = 0
    if config.system(name).endpoint:
        from prosg.evaluation.systems.endpoint import evaluate_endpoint

        status = evaluate_endpoint(config, name, rows, stale)
    elif stale:
        _evaluate_local(config, name, rows, stale)
    (folder / "progress.json").unlink(missing_ok=True)
    (folder / "done").touch()
    return status


def _evaluate_local(config: EvalConfig, name: str, rows: Sequence[Row], stale: Sequence[str]) -> None:
    from prosg.checkpoints.fingerprints import model_fingerprint
    from prosg.evaluation.measures import PARTS, Subject
    from prosg.evaluation.systems.local import open_model

    folder = config.folder / "parts" / name
    system = config.system(name)
    model = open_model(system, config.device)
    about = {"backbone": model.backbone.config.model_type, "fingerprint": model_fingerprint(model)}
    kept = Answers(config.kept)
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
        path = trained_in(given)
        files = sorted(file for file in path.glob("*") if file.is_file()) if path.is_dir() else [path]
        found += [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.exists()]
    return found


def _hash(rows: Sequence[Row]) -> str:
    return answer_key({"rows": [row_to_dict(row) for row in rows]})


def _check_kinds(config: EvalConfig) -> None:
    for kind in kinds_of(config):
        if kind not in KINDS:
            raise ValueError(f"data.kinds has {kind}; allowed: {', '.join(KINDS)}")
    if len(set(config.data.kinds)) < len(config.data.kinds):
        raise ValueError(f"data.kinds is {config.data.kinds}; name each kind once")
    if "capacity" in config.measures:
        capacity = config.capacity
        if capacity.kind not in KINDS:
            raise ValueError(f"capacity.kind is {capacity.kind!r}; allowed: {', '.join(KINDS)}")
        for number in capacity.items:
            try:
                Setting(items=(number, number)).check(KINDS[capacity.kind])
            except ValueError as error:
                raise ValueError(f"capacity.{error}") from None


def _check_updates(config: EvalConfig, rows: Sequence[Row]) -> None:
    """Whether there are rows enough for another prompt's update, and training prompts for the mean one."""
    curve = kinds_of(config)
    asked: dict[str, list[str]] = {}  # key of the number of rows -> each row's kind
    if {"accuracy", "perplexity"} & set(config.measures):
        asked["data.file" if config.data.file else "data.rows"] = [row.kind for row in rows]
    if "curve" in config.measures:
        asked["curve.rows"] = [curve[number % len(curve)] for number in range(config.curve.rows)]
    if "capacity" in config.measures:
        asked["capacity.rows"] = [config.capacity.kind] * config.capacity.rows
    kinds = sorted({kind for each in asked.values() for kind in each})
    training: dict[str, list[Row]] | None = None
    for name in config.systems:
        where, update = f"systems.{name}", config.system(name).update
        if update == "other":
            for key, each in asked.items():
                if alone := [kind for kind, number in Counter(each).items() if number < 2]:
                    raise ValueError(
                        f"{where}: another prompt's update needs two rows of each kind; by {key}, {alone[0]!r} has one"
                    )
        elif update == "mean":
            training = training_rows(config, kinds) if training is None else training
            if few := [kind for kind in kinds if len(training[kind]) < LEAST_PROMPTS]:
                raise ValueError(
                    f"{where}: the mean update needs {LEAST_PROMPTS} training prompts of each kind; "
                    f"{config.data.train or 'data.train'} has {len(training[few[0]])} of {few[0]!r}"
                )


def write_plan(config: EvalConfig, rows: Sequence[Row]) -> None:
    """What is asked, of whom, and what each part has to be made of."""
    folder = config.folder
    write_json(folder / "config.json", dataclasses.asdict(config))
    write_rows(folder / "rows.jsonl", rows)
    systems = {name: dataclasses.asdict(config.system(name)) for name in config.systems}
    write_json(folder / "systems.json", systems)
    plan = {name: {one: settings_of(config, name, one, rows) for one in config.measures} for name in config.systems}
    write_json(folder / "plan.json", plan)
