"""Paths as users write them: `~` is expanded here, for options, configuration files and callers in Python alike."""

from __future__ import annotations

import os
import typing
from typing import Annotated, Any

__all__ = ["PATH", "UserPath", "UserPaths", "expand_paths", "same_file", "user_path"]

PATH = "path"
"""Marks the fields of a dataclass that hold paths: `Annotated[..., PATH]`."""
UserPath = Annotated[str, PATH]
UserPaths = Annotated[list[str], PATH]


def user_path(path: str | os.PathLike[str]) -> str:
    """Returns a path with `~` and `~NAME` at its start replaced by the home folder.

    Raises:
        ValueError: for a user that is not known, else a folder called ~NAME would be made; and for a NUL character.
        TypeError: for what is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{path!r} is no path; give a text or a pathlib.Path")
    text = os.fspath(path)
    if "\0" in text:
        raise ValueError(f"{text!r}: a path has no NUL character")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = text.partition("/")[0]
        raise ValueError(f"{text}: {user} is no user's home folder; a file of that name is ./{text}")
    return expanded


def same_file(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths are one file or folder that is there: by any name, link, or way through folders to be made."""
    places = os.path.realpath(path), os.path.realpath(other)
    return all(map(os.path.exists, places)) and os.path.samefile(*places)


def expand_paths(config: Any) -> None:
    """Expands the paths of a dataclass in place, also of a frozen one: a field that is marked, and each path in it.

    Raises:
        ValueError: as `user_path`, naming the field.
    """
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        if PATH in getattr(hint, "__metadata__", ()):
            value = getattr(config, name)
            try:
                if isinstance(value, str | os.PathLike):
                    value = user_path(value)
                elif isinstance(value, list | tuple):
                    value = type(value)(user_path(one) if isinstance(one, str | os.PathLike) else one for one in value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            object.__setattr__(config, name, value)
