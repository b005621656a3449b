"""A cache of answers: what a model writes for a prompt under given settings is written once.

The cache is a file of SQLite. A batch of answers is stored in one transaction, so a kill leaves whole batches. An
answer's key is a hash of all that it follows from: the model's fingerprint, the prompt, whose update acts, settings.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Answer", "AnswerCache", "batched"]


class Answer(NamedTuple):
    """What a system wrote for a row."""

    id: str
    text: str
    tokens: int
    """written by the model, the end token left out; 0 where an endpoint does not say"""
    reason: str
    """why it ended: "end", "stop", "length"; an endpoint's own word else"""


class AnswerCache:
    """A file of answers, or, without a path, answers in memory."""

    def __init__(self, path: Path | None = None) -> None:
        """Opens the file, made where it is missing. Raises ValueError for a file of another kind."""
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.connection = sqlite3.connect(path or ":memory:", timeout=60)
            self.connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: not a file of answers ({error}); name another, or delete it") from None

    def get(self, key: str, row_id: str) -> Answer | None:
        """The answer stored under a key, if there is one."""
        stored = self.connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if stored is None else Answer(row_id, *json.loads(stored[0]))

    def put(self, answers: Mapping[str, Answer]) -> None:
        """Stores a batch of answers by key, all or none. Raises OSError where they cannot be written."""
        rows = [(key, json.dumps(answer[1:], ensure_ascii=False)) for key, answer in answers.items()]
        try:
            with self.connection:
                self.connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: cannot be written ({error}); make room, or name another place") from None

    def close(self) -> None:
        self.connection.close()


def batched(
    keys: Sequence[str],
    ids: Sequence[str],
    batch_size: int,
    cache: AnswerCache,
    write: Callable[[list[int]], list[Answer]],
    tell: Callable[[float], None],
) -> list[Answer]:
    """Every row's answer, from the cache or written now.

    Batches are cut from all the rows, then the rows in the cache are left out: a run that was stopped continues with
    the batches that an uninterrupted run has, and writes the same.

    Args:
        keys: One per row.
        ids: One per row.
        batch_size: Rows at once.
        cache: Where answers are looked up and stored.
        write: Writes the answers to some rows, given their indices.
        tell: Gets the share done.
    """
    answers: list[Answer | None] = [cache.get(key, name) for key, name in zip(keys, ids, strict=True)]
    for start in range(0, len(keys), batch_size):
        tell(start / len(keys))
        missing = [i for i in range(start, min(start + batch_size, len(keys))) if answers[i] is None]
        if missing:
            written = write(missing)
            cache.put({keys[i]: answer for i, answer in zip(missing, written, strict=True)})
            for i, answer in zip(missing, written, strict=True):
                answers[i] = answer
    return [answer for answer in answers if answer is not None]
