"""Answers that are kept: what a model wrote for a prompt under given settings is written once, and read from then on.

A file of SQLite; a batch of answers is written in one transaction, so that a kill leaves whole batches. The key of an
answer is a hash of all that it follows from: the model's fingerprint, the prompt, whose update acts, the settings.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Answer", "Answers", "answer_key", "batched"]


class Answer(NamedTuple):
    """What a system wrote for a row."""

    id: str
    text: str
    tokens: int
    """written by the model, the end token left out; 0 where an endpoint does not say"""
    reason: str
    """why it ended: "end", "stop", "length"; an endpoint's own word else"""


def answer_key(settings: Mapping[str, Any]) -> str:
    """A hash of what an answer follows from."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Answers:
    """The file, open."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError for a file that is none of this kind."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.connection = sqlite3.connect(path, timeout=60)
            self.connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: not a file of answers ({error}); name another, or delete it") from None

    def get(self, key: str, row_id: str) -> Answer | None:
        """The answer of a key, if there is one."""
        found = self.connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if found is None else Answer(row_id, *json.loads(found[0]))

    def put(self, answers: Mapping[str, Answer]) -> None:
        """Keep a batch of answers, all or none."""
        with self.connection:
            self.connection.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)",
                [(key, json.dumps(answer[1:], ensure_ascii=False)) for key, answer in answers.items()],
            )

    def close(self) -> None:
        self.connection.close()


def batched(
    keys: Sequence[str],
    ids: Sequence[str],
    batch_size: int,
    kept: Answers,
    write: Callable[[list[int]], list[Answer]],
    tell: Callable[[float], None],
) -> list[Answer]:
    """Every row's answer, kept or written now.

    Batches are cut from all the rows, then those that are kept are left out: a run that was stopped goes on with the
    batches that an uninterrupted one has, and writes the same.
    """
    found: list[Answer | None] = [kept.get(key, name) for key, name in zip(keys, ids, strict=True)]
    for start in range(0, len(keys), batch_size):
        tell(start / len(keys))
        missing = [i for i in range(start, min(start + batch_size, len(keys))) if found[i] is None]
        if missing:
            written = write(missing)
            kept.put({keys[i]: answer for i, answer in zip(missing, written, strict=True)})
            for i, answer in zip(missing, written, strict=True):
                found[i] = answer
    return [answer for answer in found if answer is not None]
