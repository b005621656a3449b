"""Where stored prompts lie: a folder, or anything that fsspec reaches (s3://, gs://, sftp://), by one interface.

Names are relative, with "/" between their parts. A file is there whole or not at all, however a writer ends.
"""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from prosg.utils.leftovers import sweep
from prosg.utils.outside import plain_reason
from prosg.utils.paths import user_path

__all__ = ["Bucket", "Folder", "Storage", "is_url", "open_storage"]

URL = re.compile(r"(?:[a-zA-Z][\w+.-]*::)*[a-zA-Z][\w+.-]*://")
"""s3://bucket, or one file system on top of another: simplecache::s3://bucket."""
LOCAL = re.compile(r"file://(?:localhost(?=/))?")


@runtime_checkable
class Storage(Protocol):
    """Files by name."""

    def fetched(self, name: str) -> AbstractContextManager[Path]:
        """Gives a path at which a file can be read. FileNotFoundError where there is none."""

    def written(self, name: str) -> AbstractContextManager[Path]:
        """Gives a path to write a file at, whole; when the block has ended it is there for everybody."""

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, without the folder's; none where there is no such folder."""

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""


def is_url(place: str) -> bool:
    """Whether a place is named by a URL, and is no folder's path."""
    return URL.match(place) is not None


def open_storage(place: str) -> Storage:
    """Opens a folder, by its path or as file://PATH, or what another URL of fsspec names; it is made if need be.

    Raises:
        ValueError: for a URL of an unknown kind or without a path, and a place that cannot be reached.
        OSError: for a folder that cannot be made.
    """
    if (local := LOCAL.match(place)) is not None:
        if not place[local.end() :]:
            raise ValueError(f"{place} names no folder; give its path: file:///PATH")
        place = place[local.end() :]
    return Bucket(place) if is_url(place) else Folder(Path(user_path(place)))


class Folder:
    """A folder on a disk of this machine, or on one that several share."""

    def __init__(self, path: Path) -> None:
        """Makes the folder, readable by this user only, or clears away what a killed writer left half written."""
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(path)

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        path = self.path / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        yield path

    @contextmanager
    def written(self, name: str) -> Iterator[Path]:
        yield self.path / name  # `written_whole` does the rest

    def names(self, folder: str) -> list[str]:
        return [file.name for file in (self.path / folder).glob("[!.]*")]

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class Bucket:
    """A place that fsspec reaches.

    A file is uploaded under a name of its own and then moved: also where an upload can end half way, no reader sees
    less than the whole. Listings are never taken from fsspec's cache, since others write there, too.
    """

    def __init__(self, url: str) -> None:
        """Opens what a URL names.

        Raises:
            ValueError: where fsspec does not know it, a package for it is missing, or it cannot be reached.
        """
        self.url = url
        try:
            self._files, self._root = url_to_fs(url)
            self._files.makedirs(self._root, exist_ok=True)
        except Exception as error:  # each kind of storage has errors of its own
            raise ValueError(f"{url} cannot be opened: {plain_reason(error)}") from None

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        self._files.invalidate_cache()
        content = self._files.cat_file(self._path(name))
        with tempfile.TemporaryDirectory(prefix="prosg-fetched-") as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(content)
            yield path

    @contextmanager
    def written(self, name: str) -> Iterator[Path]:
        folder, _, last = self._path(name).rpartition("/")
        temporary = f"{folder}/.{last}.{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory(prefix="prosg-written-") as local:
            path = Path(local) / last
            yield path
            content = path.read_bytes()
        self._files.makedirs(folder, exist_ok=True)
        try:
            self._files.pipe_file(temporary, content)
            self._check(temporary, len(content))
            self._move(temporary, f"{folder}/{last}")
        except BaseException:
            with suppress(Exception):  # nobody would ever ask for it; what matters is why the writing failed
                self._files.rm_file(temporary)
            raise
        self._check(f"{folder}/{last}", len(content))

    def _move(self, old: str, new: str) -> None:
        """As fsspec's own `mv`, which takes a path with [, * or ? for a pattern and moves what else matches it."""
        if type(self._files).mv is not AbstractFileSystem.mv:  # a rename, of a disk or over SFTP
            self._files.mv(old, new)
            return
        self._files.cp_file(old, new)
        self._files.rm_file(old)

    def _check(self, path: str, size: int) -> None:
        """Raises OSError unless a file is there, whole."""
        self._files.invalidate_cache()
        if (found := self._files.info(path)["size"]) != size:
            raise OSError(f"{self.url}: {path} has {found} bytes after {size} were written")

    def names(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in found)
        return [name for name in names if not name.startswith(".")]

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))
