"""Append-only logs of JSON records, and hashes to name records by.

A log is a file of one JSON object per line, which is on the disk before work continues. A process that is killed can
leave the last line cut short. The next record takes its place, so that what it recorded is done again. A last
line that is a whole object is a record like any other, also where only the newline after it is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prosg.utils.locks import check_locks, lock_file
from prosg.utils.outside import parse_json
from prosg.utils.replaceable import check_replaceable
from prosg.utils.write_errors import write_errors

__all__ = ["Log", "hash_json", "read_log", "record_id"]


RECORD_START = b'{"'
"""What every record begins with."""


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
    records = [_record(path, number, line) for number, line in enumerate(content[:size].splitlines(), 1)]
    last = content[size:]
    if _is_json(last):  # no beginning of a JSON object is one itself, so nothing is missing but the newline
        records.append(_record(path, len(records) + 1, last))
        size = len(content)
    return records, size


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = parse_json(line, f"{path}:{number}", finite=False)
    except ValueError as error:
        raise ValueError(f"{error}; delete the line to have it made again") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}:{number}: holds a {type(record).__name__}, not an object; delete the line")
    return record


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


class Log:
    """An append-only file of JSON records.

    Attributes:
        path: The file.
        records: All records, in order.
    """

    def __init__(self, path: Path, *, alone: bool = False) -> None:
        """Opens or creates the file.

        Args:
            path: The file.
            alone: Lock it until it is closed. A file in a folder that is `locked` needs no lock of its own.

        Raises:
            ValueError: for a damaged line, for a file without a record whose only line is not the beginning of one: it
                is somebody else's, and is not cut; and for one that another process has locked.
        """
        self.path = path
        check_replaceable(path, overwrite=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if alone:
                lock_file(self.handle, path)
            self.records, self._whole = _read_whole_lines(path)
            self._size = os.fstat(self.handle).st_size
            cut_short = b"" if self.records else path.read_bytes()[self._whole :]
            if not cut_short.startswith(RECORD_START[: len(cut_short)]):
                raise ValueError(
                    f"{path}:1: not the beginning of a record; the file is left as it is, so name another one"
                )
        except BaseException:
            os.close(self.handle)
            raise

    def append(self, *records: Mapping[str, Any], wait: bool = True) -> None:
        """Writes records and waits until they are on the disk.

        wait=False does not wait: for records that could be computed again from others that are on the disk.
        """
        check_locks()
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
        with write_errors(self.path):
            self._mend_last_line()
            while data:
                data = data[os.write(self.handle, data) :]
            if wait:
                os.fsync(self.handle)
        self.records += map(dict, records)

    def _mend_last_line(self) -> None:
        """Removes a line cut short, or ends one without its newline, once: only now, when there is something to write.

        A file that has grown since it was opened was mended by whoever wrote there.
        """
        if self._size and os.fstat(self.handle).st_size == self._size:
            if self._size > self._whole:
                os.ftruncate(self.handle, self._whole)
            elif not self.path.read_bytes().endswith(b"\n"):
                os.write(self.handle, b"\n")
        self._size = 0

    def close(self) -> None:
        """Closes the file. Nothing can be written after that, not even into another file with the same handle."""
        os.close(self.handle)
        self.handle = -1
