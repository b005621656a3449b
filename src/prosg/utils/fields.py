"""What a record of a log has to hold. One that was damaged or edited is an error that names its line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["COUNT", "check_record"]

COUNT = int
"""An integer of 0 or more."""
NAMES = {str: "a text", COUNT: "a whole number of 0 or more", float: "a number of 0 or more"}
NAMES |= {bool: "true or false", list: "a list"}


def check_record(record: Mapping[str, Any], fields: Mapping[str, type], where: str) -> None:
    """Checks a record of a log.

    Args:
        record: The record.
        fields: The type of each field that it must have: str, COUNT, float (of 0 or more), bool or list.
        where: Its place, "FILE:LINE".

    Raises:
        ValueError: for the first field that is missing or of another type.
    """
    for name, kind in fields.items():
        value = record.get(name)
        fits = type(value) in ((int, float) if kind is float else (kind,))
        if not fits or (isinstance(value, int | float) and not 0 <= value < math.inf):
            what = f"{value!r:.40}" if name in record else "missing"
            cure = "delete the line to have it made again"
            raise ValueError(f"{where}: {name} is {what}; it must be {NAMES[kind]}: {cure}")
