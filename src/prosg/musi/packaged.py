"""Data files that come with the package."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import yaml

__all__ = ["packaged", "packaged_text"]


def packaged_text(name: str) -> str:
    """A file's text."""
    return resources.files("prosg.musi").joinpath(name).read_text("utf-8")


@functools.cache
def packaged(name: str) -> Any:
    """A YAML file's content, read once."""
    return yaml.safe_load(packaged_text(name))
