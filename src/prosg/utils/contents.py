"""A record of a folder's files, by which one that was cut, changed or lost later is noticed.

contents.json     {name: sha256}, written when all files are
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prosg.utils.file_hashes import hash_file
from prosg.utils.io import read_json, write_json

__all__ = ["CONTENTS", "damage", "record_contents"]

CONTENTS = "contents.json"


def record_contents(folder: Path, files: Iterable[Path] | None = None) -> None:
    """Writes the hash of each file of a folder beside them.

    Args:
        folder: The folder.
        files: Those that are recorded; all in it by default.
    """
    chosen = files if files is not None else (file for file in folder.rglob("*") if file.is_file())
    names = {file.relative_to(folder).as_posix(): file for file in chosen if file.name != CONTENTS}
    write_json(folder / CONTENTS, {name: hash_file(names[name]) for name in sorted(names)})


def damage(folder: Path) -> str:
    """Says which recorded file of a folder is not what was written; "" where all are, and where there is no record."""
    try:
        recorded = read_json(folder / CONTENTS) if (folder / CONTENTS).exists() else {}
        for name, hashed in recorded.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if hash_file(folder / name) != hashed:
                return f"{name} is not what was written"
    except (ValueError, OSError) as error:
        return str(error)
    return ""
