"""Files that only grow: one JSON object per line, on the disk before anything else happens.

A kill can cut the last line short. It is removed when the file is opened again, so what it recorded happens again; a
line that is whole stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Log", "locked", "read_log", "record_id"]


def record_id(**parts: Any) -> str:
    """The id of a record: a hash of all that it follows from."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a file, and how many bytes they take: less than the file where its last line is cut short."""
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{number}: not JSON ({error}); delete the line to have it made again") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}:{number}: holds a {type(record).__name__}, not an object; delete the line")
        records.append(record)
    return records, whole


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a file, none where there is no file; the file is left as it is."""
    return _lines(path)[0]


class Log:
    """A file that only grows, with its records in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records, whole = _lines(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if os.fstat(self.handle).st_size > whole:
            os.ftruncate(self.handle, whole)

    def append(self, *records: Mapping[str, Any], wait: bool = True) -> None:
        """Write records, and wait until they are on the disk unless they could be made again from what is."""
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        while data:
            data = data[os.write(self.handle, data) :]
        if wait:
            os.fsync(self.handle)
        self.records += map(dict, records)

    def close(self) -> None:
        os.close(self.handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from working in a folder. ValueError where someone does; a lock ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another command is at work there; wait until it is done") from None
        yield
