"""Ratings on disk: RUN/ratings/ANNOTATOR.jsonl, one line per rating.

    {"id", "system", "scale", "value", "answer", "shown", "seed", "time"}

`answer` is a hash of prompt and answer: ratings of an answer that has changed since do not count. `shown` is the letter
behind which the system stood. Files only grow; of several ratings of the same scale and answer the last one counts.
Nothing is cached in memory, so that two tabs or two processes see each other's ratings.
"""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prosg.data.row import derived_id
from prosg.evaluation.ratings.items import SCALES, VALUES, CandidateAnswer, RatingItem
from prosg.utils.store import Log, read_log

__all__ = [
    "RatingKey",
    "append_rating",
    "check_annotator",
    "count_stale_ratings",
    "current_ratings",
    "find_annotators",
    "is_finished",
]

RatingKey = tuple[str, str, str]
"""Identifies a rating of one annotator: row id, the system's name in reports, scale."""


def check_annotator(name: str) -> None:
    """Raises ValueError for an annotator's name that cannot be a file name."""
    if not _is_annotator(name):
        raise ValueError(f"--annotator is {name!r}; it has up to 64 letters of ASCII, digits, hyphens and underscores")


def _is_annotator(name: str) -> bool:
    return re.fullmatch(r"\w[\w-]{0,63}", name, re.ASCII) is not None


def _file(run: Path, annotator: str) -> Path:
    return run / "ratings" / f"{annotator}.jsonl"


def find_annotators(items: Sequence[RatingItem]) -> list[str]:
    """Names of all who rated in one of the items' runs, in alphabetical order.

    Raises:
        ValueError: For a file whose name is no annotator's: a copy would count its ratings twice. Hidden files, which
            editors leave, are passed over.
    """
    runs = {candidate.run for item in items for candidate in item.candidates}
    files = [file for run in sorted(runs) for file in sorted((run / "ratings").glob("*.jsonl"))]
    names = set()
    for file in files:
        if _is_annotator(file.stem):
            names.add(file.stem)
        elif not file.name.startswith("."):
            raise ValueError(
                f"{file}: no annotator has such a name, so it may be a copy; move it elsewhere, or rename it with "
                "ASCII letters, digits, hyphens and underscores"
            )
    return sorted(names)


def append_rating(
    item: RatingItem, candidate: CandidateAnswer, annotator: str, scale: str, value: int, *, shown: str, seed: int
) -> None:
    """Records a rating; it is on disk when this returns.

    Args:
        item, candidate: The prompt and the answer that is rated.
        annotator: Who rates.
        scale: One of SCALES.
        value: One of VALUES.
        shown: The letter behind which the answer was shown.
        seed: Seed of the annotator's order.
    """
    assert scale in SCALES and value in VALUES
    record = {"id": item.id, "system": candidate.system, "scale": scale, "value": value}
    record |= {"answer": derived_id(item.prompt, candidate.text), "shown": shown, "seed": seed, "time": time.time()}
    path = _file(candidate.run, annotator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        # Opening the log removes a line that a kill cut short; the lock keeps that from being another process's write.
        fcntl.flock(file, fcntl.LOCK_EX)
        log = Log(path)
        try:
            log.append(record)
        finally:
            log.close()


def _read_records(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, record in enumerate(read_log(path), 1):
        has_texts = all(isinstance(record.get(key), str) for key in ("id", "system", "scale", "answer"))
        if not has_texts or record["scale"] not in SCALES or type(record.get("value")) is not int:
            raise ValueError(
                f"{path}:{number}: no rating; it has an id, a system, a scale, a value and an answer's hash"
            )
        if record["value"] not in VALUES:
            raise ValueError(f"{path}:{number}: value is {record['value']}; allowed: {VALUES[0]} to {VALUES[-1]}")
        yield record


def _read_ratings(items: Sequence[RatingItem], annotator: str) -> tuple[dict[RatingKey, int], int]:
    """The ratings that count, and the number of those that do not: each is what was said last of a scale and answer."""
    known = {
        (candidate.run, item.id, candidate.system): (candidate.name, derived_id(item.prompt, candidate.text))
        for item in items
        for candidate in item.candidates
    }
    values: dict[RatingKey, int] = {}
    stale = set()
    for run in dict.fromkeys(run for run, _, _ in known):
        for record in _read_records(_file(run, annotator)):
            name, answer = known.get((run, record["id"], record["system"]), ("", ""))
            if answer == record["answer"]:
                values[record["id"], name, record["scale"]] = record["value"]
            else:
                stale.add((run, *(record[field] for field in ("id", "system", "scale", "answer"))))
    return values, len(stale)


def current_ratings(items: Sequence[RatingItem], annotator: str) -> dict[RatingKey, int]:
    """An annotator's ratings of the items' answers as they are now.

    Raises:
        ValueError: `FILE:LINE: ...` for a line that is not a rating.
    """
    return _read_ratings(items, annotator)[0]


def count_stale_ratings(items: Sequence[RatingItem], annotator: str) -> int:
    """Number of recorded ratings that do not count: the answer has changed, or is none of the items'."""
    return _read_ratings(items, annotator)[1]


def is_finished(item: RatingItem, values: Mapping[RatingKey, int]) -> bool:
    """Whether every answer of an item is rated on every scale."""
    return all((item.id, candidate.name, scale) in values for candidate in item.candidates for scale in SCALES)
