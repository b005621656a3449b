"""Names in data files: they lead nowhere but into the folder that the file is in."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

__all__ = ["inside"]


def inside(folder: Path, name: object, where: str) -> Path:
    """Returns the path of a file that a data file names. Whoever wrote that file must not choose other people's files.

    Args:
        folder: The folder that the name is relative to.
        name: The name as it was read.
        where: What the error names, like "manifest.json: decisions".

    Raises:
        ValueError: for what is no name, and for a name that leads out of the folder: an absolute one, one with "..",
            and one behind a link to elsewhere.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"{where} is {name!r:.80}; it must be the name of a file in {folder}")
    ways = PurePosixPath(name), PureWindowsPath(name)
    path = folder / name
    leaves = any(way.anchor or ".." in way.parts for way in ways) or name.startswith("~")
    if leaves or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where} is {name!r:.80}, which leads out of {folder}; it must name a file in that folder")
    return path
