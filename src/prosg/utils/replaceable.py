"""What may be replaced: files, and folders of the kind that takes their place, with nothing else in them."""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from prosg.utils.outside import parse_json, read_text

__all__ = ["FolderKind", "ReplaceableError", "check_replaceable"]


class ReplaceableError(FileExistsError):
    """Something is there that may be replaced, if the caller says so."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        super().__init__(self.named("overwrite=True"))

    def named(self, option: str) -> str:
        """The message, with the option as whoever reads it would write it."""
        return f"{os.fspath(self.path)}: exists; {option} replaces it"


class FolderKind(NamedTuple):
    """A kind of folder that this package writes, and may replace.

    Attributes:
        name: What errors call it, like "a model".
        marker: The JSON file by which it is known.
        keys: What the marker's object has, to tell it from other files of that name.
        parts: Names, or patterns of names, of everything else that is written into such folders.
    """

    name: str
    marker: str
    keys: tuple[str, ...]
    parts: tuple[str, ...]

    def is_marked(self, path: Path) -> bool:
        """Returns whether a folder holds the marker."""
        try:
            content = parse_json(read_text(path / self.marker), self.marker, finite=False)
        except ValueError:
            return False
        return isinstance(content, dict) and all(key in content for key in self.keys)

    def check(self, path: Path) -> None:
        """Raises FileExistsError unless a folder holds the marker, and nothing that such a folder would not have."""
        if not self.is_marked(path):
            raise FileExistsError(
                f"{path}: a folder, but not of {self.name} (no {self.marker} of one); not replaced. Name another place"
            )
        for inner in sorted(path.iterdir()):
            known = any(fnmatch(inner.name, part) for part in (self.marker, *self.parts))
            if not known or inner.is_dir():
                raise FileExistsError(
                    f"{path}: holds {inner.name}, which is no part of {self.name}; not replaced. Name another place, "
                    "or move it away"
                )


def check_replaceable(path: str | os.PathLike[str], *, overwrite: bool, kind: FolderKind | None = None) -> None:
    """Makes sure that a file, or a folder of a kind, may be written.

    Args:
        path: Where; symbolic links are followed.
        overwrite: Whether a file, or a folder of the same kind, may be replaced. An empty folder always may.
        kind: Of a folder; None for a file.

    Raises:
        FileExistsError: if something is there that may not be replaced: what is no file and no folder never is.
    """
    path = Path(path)
    try:
        if not path.exists():
            path = Path(os.path.realpath(path))  # a/b/../c, where b is made when c is written
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        if kind is None:
            raise FileExistsError(f"{path}: is a folder; name a file in it")
        if any(path.iterdir()):
            if not overwrite:
                raise ReplaceableError(path)
            kind.check(path)
    elif not stat.S_ISREG(mode):
        raise FileExistsError(f"{path}: is a device or a pipe, which a file cannot replace; name a file")
    elif kind is not None:
        raise FileExistsError(f"{path}: is a file; {kind.name} is written into a folder")
    elif not overwrite:
        raise ReplaceableError(path)
