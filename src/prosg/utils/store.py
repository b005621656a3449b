"""Append-only logs of JSON records, hashes to name records by, and locks on folders.

A log is a file of one JSON object per line, which is on the disk before work continues. A process that is killed can
leave the last line cut short. Opening the log again removes such a line, so that what it recorded is done again.
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

from prosg.utils.outside import parse_json

__all__ = ["Log", "hash_json", "locked", "read_log", "record_id"]


def hash_json(value: Any) -> str:
    """Returns the sha256, as hex, of a value's canonical JSON: keys sorted, no spaces."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def record_id(**inputs: Any) -> str:
    """Returns the id of a record: a hash, of 24 hex digits, of all inputs that determine it."""
    return hash_json(inputs)[:24]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a log, none if there is no file. The file is not changed.

    Raises:
        ValueError: for a damaged line, naming file and line.
    """
    return _read_whole_lines(path)[0]


def _read_whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the records, and the bytes that they take: less than the file's if its last line is cut short."""
    content = path.read_bytes() if path.exists() else b""
    size = content.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(content[:size].splitlines(), 1):
        try:
            record = parse_json(line, f"{path}:{number}", finite=False)
        except ValueError as error:
            raise ValueError(f"{error}; delete the line to have it made again") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}:{number}: holds a {type(record).__name__}, not an object; delete the line")
        records.append(record)
    return records, size


class Log:
    """An append-only file of JSON records.

    Attributes:
        path: The file.
        records: All records, in order.
    """

    def __init__(self, path: Path) -> None:
        """Opens or creates the file. Raises ValueError for a damaged line."""
        self.path = path
        self.records, size = _read_whole_lines(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        if os.fstat(self.handle).st_size > size:
            os.ftruncate(self.handle, size)

    def append(self, *records: Mapping[str, Any], wait: bool = True) -> None:
        """Writes records and waits until they are on the disk.

        wait=False does not wait: for records that could be computed again from others that are on the disk.
        """
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
    """Holds a lock on a folder, created if missing. The lock ends with the process at the latest.

    Raises:
        ValueError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another command is at work there; wait until it is done") from None
        yield
