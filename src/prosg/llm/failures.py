"""What a failed attempt tells: the cause of a lost connection, the pause that is demanded, the refused parameter."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from prosg.llm.config import LIMITS

__all__ = ["first_cause", "is_unpaid", "parameter_advice", "refused_parameters", "retry_after"]

ADVICE = {
    "seed": "endpoint.send_seed: false leaves it out",
    "response_format": "endpoint.json: object or none asks otherwise",
    **dict.fromkeys(LIMITS, "endpoint.token_parameter has another name, or null"),
}
"""What to do about parameters that have options of their own."""


UNPAID = re.compile(
    r"http 402\b|insufficient[ _](?:balance|credits?|funds|quota)|credit balance|billing hard limit|current quota|"
    r"payment required",
    re.IGNORECASE,
)
"""What servers say, also with other statuses than 402, when there is nothing left to pay with."""


def is_unpaid(refusal: str) -> bool:
    """Whether a refusal is about an account that is used up, and so not about the request: it has to be sent again."""
    return UNPAID.search(refusal) is not None


MODERATED = re.compile(
    r"moderat|\bflagged\b|content[ _](?:policy|filter|management)|safety (?:system|polic)", re.IGNORECASE
)
"""What servers say that forbid (403) a text and not the account."""


def is_moderated(refusal: str) -> bool:
    """Whether a refusal is about what a request says."""
    return MODERATED.search(refusal) is not None


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


def refused_parameters(body: Mapping[str, Any], refusal: str) -> list[str]:
    """Returns the parameters of a request that the text of its refusal names."""
    texts = ("model", "messages")
    return [name for name in body if name not in texts and re.search(rf"\b{re.escape(name)}\b", refusal)]


def parameter_advice(name: str) -> str:
    """Returns what to do about a parameter that a server refuses."""
    return ADVICE.get(name, f"{name}: null, for whatever asks or in endpoint.extra, leaves it out")
