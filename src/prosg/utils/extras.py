"""Optional dependencies: what a feature says where the packages of its extra are not installed."""

from __future__ import annotations

from typing import Literal

__all__ = ["Extra", "missing_extra"]

Extra = Literal["data", "engines", "eval", "harness", "ray", "real", "serve", "train"]
"""Extras of the package that a feature may need; pyproject.toml has what they install."""


def missing_extra(feature: str, extra: Extra, missing: ImportError | str) -> ValueError:
    """Makes the error of a feature whose extra is not installed, naming the command that installs it.

    Args:
        feature: What needs the extra, as the subject of the sentence.
        extra: Its name.
        missing: The failed import, or the names of the packages that are not there.
    """
    package = missing if isinstance(missing, str) else missing.name or str(missing)
    return ValueError(f"{feature} needs the extra `{extra}`: pip install 'prosg[{extra}]' ({package} is missing)")
