"""What a failed attempt tells: the cause of a lost connection, and the pause that a server demands."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

__all__ = ["first_cause", "retry_after"]


def first_cause(error: BaseException) -> str:
    """Returns what the first error behind another says; of several at once (a host's addresses), the first."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper.exceptions[0] if isinstance(deeper, BaseExceptionGroup) else deeper
    if isinstance(error, OSError):
        said = os.strerror(error.errno) if error.errno in errno.errorcode and error.errno else error.strerror
        return said or str(error) or type(error).__name__
    return str(error) or type(error).__name__


def retry_after(headers: Mapping[str, str]) -> float:
    """Returns the seconds that a server demands before the next attempt; 0 where it names none."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "0")
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
