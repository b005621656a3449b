"""Replies that are read from their records again, checked, and without what is not the model's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prosg.llm.completion import ReplyRecord
from prosg.llm.failures import is_unpaid
from prosg.llm.reasoning import separate
from prosg.utils.fields import COUNT, check_record
from prosg.utils.outside import whole_text
from prosg.utils.store import read_log

__all__ = ["read_replies", "recorded_replies"]

REPLY_FIELDS: dict[str, type] = {"id": str, "reply": str, "finish": str, "refusal": str, "model": str}
REPLY_FIELDS |= {"tokens_in": COUNT, "tokens_out": COUNT, "money": float}


def recorded_replies(path: Path, records: Sequence[Mapping[str, Any]]) -> dict[str, ReplyRecord]:
    """Returns recorded replies by the request's id, without the reasoning that older records hold in the text.

    What was recorded by mistake, a body that is no chat completion, a reply that the server broke off, or a refusal for
    want of money, is left out, and so requested again.

    Args:
        path: The log that they are from.
        records: All its records.

    Raises:
        ValueError: for a record that is no reply, naming file and line.
    """
    replies: dict[str, ReplyRecord] = {}
    for number, record in enumerate(records, 1):
        check_record(record, REPLY_FIELDS, f"{path}:{number}")
        no_refusal = record["finish"] == "error" and (not record["refusal"] or is_unpaid(record["refusal"]))
        if record["finish"] == "malformed" or no_refusal:
            continue
        record = {name: whole_text(value) if isinstance(value, str) else value for name, value in record.items()}
        answer, reasoning = separate(record["reply"])
        replies[record["id"]] = record | {"reply": answer} | ({"reasoning": reasoning} if reasoning else {})
    return replies


def read_replies(path: Path) -> dict[str, ReplyRecord]:
    """Reads the replies in a log by the request's id, none if there is no file. Raises ValueError as above."""
    return recorded_replies(path, read_log(path))
