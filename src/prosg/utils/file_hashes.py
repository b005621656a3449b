"""Hashes of files' contents, so that a record says what it was made of, whatever the files are called.

A large file is read once: its hash is kept with the size and the times of change that the file had, in memory and in a
small file, and is computed again only where one of them differs.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from prosg.utils.io import read_json, write_json

__all__ = ["FileHashes", "file_stamp", "hash_file"]

CHUNK = 1 << 22
"""Bytes read at once."""
SETTLED = 2_000_000_000
"""Nanoseconds after its last change from which a file's times tell it from a changed one: clocks of file systems are
coarse, and a second write within one tick would not show."""


def hash_file(path: str | os.PathLike[str]) -> str:
    """Returns the sha256, as hex, of a file's content, read in pieces. Raises OSError for one that cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def file_stamp(path: str | os.PathLike[str]) -> str | None:
    """Returns what tells a file from any other content that it has had: its place, size and times of change.

    Returns:
        The stamp; None where the last change is so recent that another one could bear the same.

    Raises:
        OSError: for a file that is not there.
    """
    now = time.time_ns()
    stat = os.stat(path)
    if now - max(stat.st_mtime_ns, stat.st_ctime_ns) < SETTLED:
        return None
    # The time of the last change of the inode cannot be set, so that a restored time of change shows, too.
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


class FileHashes:
    """The sha256 of files, each read once while it stays as it is."""

    def __init__(self, kept: Path | None = None) -> None:
        """`kept`: a file of hashes that were computed before; it may be missing, and a damaged one counts as empty."""
        self.kept = kept
        self.known: dict[str, str] = {}
        self.added = False
        try:
            content = read_json(kept) if kept is not None else {}
            self.known = {key: str(value) for key, value in content.items()}
        except ValueError:
            pass  # it saves time only

    def of(self, path: str | os.PathLike[str]) -> str:
        """Returns the hash of a file's content. Raises OSError for one that cannot be read."""
        stamp = file_stamp(path)
        if stamp is None:
            return hash_file(path)
        if stamp not in self.known:
            self.known[stamp] = hash_file(path)
            self.added = True
        return self.known[stamp]

    def of_all(self, paths: Sequence[Path]) -> list[str]:
        """Returns the hashes of the files that exist, in their order."""
        return [self.of(path) for path in paths if path.is_file()]

    def save(self) -> None:
        """Writes the file of kept hashes, if there is one, where it is missing or there is something new to keep."""
        if self.kept is not None and (self.added or not self.kept.exists()):
            write_json(self.kept, self.known)
            self.added = False
