"""Data files of this package: categories, topics, and the wording of requests and composed prompts."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

from prosg.utils.yaml_text import parse_yaml

__all__ = ["packaged_text", "packaged_yaml"]


def packaged_text(name: str) -> str:
    """Returns the text of a file."""
    return resources.files("prosg.musi").joinpath(name).read_text("utf-8")


@functools.cache
def packaged_yaml(name: str) -> Any:
    """Returns the content of a YAML file, which is read once."""
    return parse_yaml(packaged_text(name), name)
