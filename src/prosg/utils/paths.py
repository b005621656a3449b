"""Paths as users write them: `~` is expanded here, for options, configuration files and callers in Python alike."""

from __future__ import annotations

import os
import typing
from typing import Annotated, Any

__all__ = ["PATH", "UserPath", "UserPaths", "expand_paths", "user_path"]

PATH = "path"
"""Marks the fields of a dataclass that hold paths: `Annotated[..., PATH]`."""
UserPath = Annotated[str, PATH]
UserPaths = Annotated[list[str], PATH]


def user_path(path: str | os.PathLike[str]) -> str:
    """Returns a path with `~` and `~NAME` at its start replaced by the home folder.

    Raises:
        ValueError: for a user that is not known; else a folder called ~NAME would be made.
    """
    text = os.fspath(path)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = text.partition("/")[0]
        raise ValueError(f"{text}: {user} is no user's home folder; a file of that name is ./{text}")
    return expanded


def expand_paths(config: Any) -> None:
    """Expands the paths of a dataclass in place, also of a frozen one: a field that is marked, and each text in it."""
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        if PATH in getattr(hint, "__metadata__", ()):
            value = getattr(config, name)
            expanded = user_path(value) if isinstance(value, str) else type(value)(map(user_path, value))
            object.__setattr__(config, name, expanded)
