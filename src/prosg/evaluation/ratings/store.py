"""Ratings on the disk: RUN/ratings/ANNOTATOR.jsonl, one line for each time that somebody set a scale.

    {"id", "system", "scale", "value", "answer", "shown", "seed", "time"}

`answer` is a hash of prompt and answer: where an answer is another by now, its ratings do not count. `shown` is the
letter that the system stood behind. The file only grows, and of several ratings of the same the last one counts.
Nothing is kept in memory: two tabs, and two processes, see what the other wrote.
"""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prosg.data.row import derived_id
from prosg.evaluation.ratings.items import SCALES, VALUES, Candidate, Item
from prosg.utils.store import Log, read_log

__all__ = ["Key", "annotators", "check_annotator", "current", "finished", "stale", "write"]

Key = tuple[str, str, str]
"""Which rating: the prompt's id, the system's name in reports, the scale."""


def check_annotator(name: str) -> None:
    """ValueError for a name that cannot be a file's."""
    if not re.fullmatch(r"\w[\w-]{0,63}", name, re.ASCII):
        raise ValueError(f"--annotator is {name!r}; it has up to 64 letters of ASCII, digits, hyphens and underscores")


def _file(run: Path, annotator: str) -> Path:
    return run / "ratings" / f"{annotator}.jsonl"


def annotators(items: Sequence[Item]) -> list[str]:
    """Whoever rated in one of the items' runs, in alphabetical order."""
    runs = {candidate.run for item in items for candidate in item.candidates}
    return sorted({file.stem for run in runs for file in (run / "ratings").glob("*.jsonl")})


def write(item: Item, candidate: Candidate, annotator: str, scale: str, value: int, *, shown: str, seed: int) -> None:
    """Add a rating; it is on the disk when this returns."""
    assert scale in SCALES and value in VALUES
    record = {"id": item.id, "system": candidate.system, "scale": scale, "value": value}
    record |= {"answer": derived_id(item.prompt, candidate.text), "shown": shown, "seed": seed, "time": time.time()}
    path = _file(candidate.run, annotator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        # The log mends a line that a kill cut short, and must not meet one that another process is writing.
        fcntl.flock(file, fcntl.LOCK_EX)
        log = Log(path)
        try:
            log.append(record)
        finally:
            log.close()


def _checked(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, record in enumerate(read_log(path), 1):
        fits = all(isinstance(record.get(key), str) for key in ("id", "system", "scale", "answer"))
        if not fits or record["scale"] not in SCALES or type(record.get("value")) is not int:
            raise ValueError(
                f"{path}:{number}: no rating; it has an id, a system, a scale, a value and an answer's hash"
            )
        if record["value"] not in VALUES:
            raise ValueError(f"{path}:{number}: value is {record['value']}; allowed: {VALUES[0]} to {VALUES[-1]}")
        yield record


def _read(items: Sequence[Item], annotator: str) -> tuple[dict[Key, int], int]:
    known = {
        (candidate.run, item.id, candidate.system): (candidate.name, derived_id(item.prompt, candidate.text))
        for item in items
        for candidate in item.candidates
    }
    values: dict[Key, int] = {}
    old = 0
    for run in dict.fromkeys(run for run, _, _ in known):
        for record in _checked(_file(run, annotator)):
            name, answer = known.get((run, record["id"], record["system"]), ("", ""))
            if answer == record["answer"]:
                values[record["id"], name, record["scale"]] = record["value"]
            old += bool(name) and answer != record["answer"]
    return values, old


def current(items: Sequence[Item], annotator: str) -> dict[Key, int]:
    """The ratings that count. ValueError `FILE:LINE: ...` for a line that is none."""
    return _read(items, annotator)[0]


def stale(items: Sequence[Item], annotator: str) -> int:
    """Lines that do not count since the answer is another by now."""
    return _read(items, annotator)[1]


def finished(item: Item, values: Mapping[Key, int]) -> bool:
    """Whether every scale of every answer is set."""
    return all((item.id, candidate.name, scale) in values for candidate in item.candidates for scale in SCALES)
