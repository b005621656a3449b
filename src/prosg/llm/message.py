"""The message in the body of a reply, whole or streamed. What is no chat completion is an error that says what came."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from prosg.llm.reasoning import REASONING_FIELDS, field_reasoning, separate
from prosg.utils.outside import decode_text, parse_json

__all__ = ["CutOffError", "Message", "NotACompletionError", "described", "read_message", "read_stream", "stream_ended"]

MESSAGE_FIELDS = ("role", "content", "refusal", "tool_calls", *REASONING_FIELDS)
"""A message has at least one of them."""
FINISHES = dict.fromkeys(("max_tokens", "model_length", "max_output_tokens"), "length")
FINISHES |= dict.fromkeys(("sensitive", "safety", "prohibited_content", "blocklist", "refusal"), "content_filter")
"""Other servers' words for the finish reasons of the OpenAI API, in lower case."""
BROKEN_FINISHES = ("error", "abort", "aborted", "cancelled", "network_error", "insufficient_system_resource")
"""Finish reasons of a reply that the server broke off itself: what it holds by then is no answer."""
LAST_EVENT = re.compile(rb"(?:^|\n)data: ?\[DONE\]")
SHOWN = 2**16
"""Bytes of an unexpected body that an error repeats; whoever shows it masks the key first, and shortens it then."""


class NotACompletionError(Exception):
    """A body is no chat completion; the message says what it is."""


class CutOffError(Exception):
    """A body ends before its end, with an error or without; the message says how."""


class Message(NamedTuple):
    """What a model has said.

    Attributes:
        text: The answer.
        reasoning: What the model wrote before it.
        finish: The server's finish reason, in the words of the OpenAI API; "stop" where it names none.
        refusal: Why there is no text, if the server says so.
        usage: The server's count of tokens, unchecked.
        model: The model as the server names it; "" where it does not.
    """

    text: str
    reasoning: str
    finish: str
    refusal: str
    usage: Mapping[str, Any]
    model: str


def read_message(body: bytes) -> Message:
    """Reads the body of a reply that is sent as a whole.

    Raises:
        NotACompletionError: for anything but an object with `choices`, the first of which has a message or a text.
        CutOffError: for a reply that the server says it broke off.
    """
    content = _parsed(body)
    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise NotACompletionError(_described(content, body))
    message = choices[0].get("message", {"content": choices[0]["text"]} if "text" in choices[0] else None)
    if not isinstance(message, dict) or not any(name in message for name in MESSAGE_FIELDS):
        raise NotACompletionError(_described(content, body))
    text, reasoning, refusal = _texts(message)
    return _message(text, reasoning, refusal, choices[0].get("finish_reason"), content)


def read_stream(body: bytes) -> Message:
    """Reads the body of a streamed reply, or of a whole one from a server that does not stream.

    Raises:
        NotACompletionError: for anything else, and for an error before the first piece.
        CutOffError: for a stream without a finish reason, for an error after the first piece, and as `read_message`.
    """
    events = _events(body)
    if not events:
        return read_message(body)
    text = reasoning = refusal = ""
    finish = None
    known: dict[str, Any] = {}
    for event in events:
        try:
            chunk = _parsed(event.encode())
        except NotACompletionError:
            if known:
                raise CutOffError("in the middle of a piece") from None
            raise
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        if known and choices is None and isinstance(chunk, dict) and not _error(chunk):
            choices = []  # a count of tokens, or a sign of life
        if not isinstance(choices, list):
            if known:
                raise CutOffError(_described(chunk, event.encode()))
            raise NotACompletionError(_described(chunk, event.encode()))
        known |= {name: chunk[name] for name in ("model", "usage") if chunk.get(name)} | {"choices": True}
        for choice in choices[:1]:
            if not isinstance(choice, dict):
                raise NotACompletionError(_described(chunk, event.encode()))
            piece = choice.get("delta") or ({"content": choice["text"]} if "text" in choice else {})
            if not isinstance(piece, dict):
                raise NotACompletionError(_described(chunk, event.encode()))
            added = _texts(piece)
            text, reasoning, refusal = text + added[0], reasoning + added[1], refusal + added[2]
            finish = choice.get("finish_reason") or finish
    if finish is None:
        raise CutOffError("without a finish reason")
    return _message(text, reasoning, refusal, finish, known)


def stream_ended(body: bytes | bytearray, new: int) -> bool:
    """Whether the last event of a stream stands in a body whose last `new` bytes have just arrived."""
    return LAST_EVENT.search(body, max(0, len(body) - new - 16)) is not None


def _events(body: bytes) -> list[str]:
    """The data of a stream's events up to the last one."""
    try:
        text = decode_text(body, "the stream").replace("\r\n", "\n").replace("\r", "\n")
    except ValueError:
        return []
    events = []
    for block in text.split("\n\n"):
        data = "\n".join(line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:"))
        if data.strip() == "[DONE]":
            break
        if data.strip():
            events.append(data)
    return events


def _parsed(body: bytes) -> Any:
    if not body.strip():
        raise NotACompletionError("an empty reply")
    try:
        return parse_json(body, "the reply")
    except ValueError as error:
        text = _beginning(body)
        kind = "a web page" if text[:1] == "<" else str(error).removeprefix("the reply: ")
        raise NotACompletionError(f"{kind}: {text}") from None


def described(body: bytes) -> str:
    """Returns what the body of an error says, in one line: its message, or else its beginning."""
    try:
        content = parse_json(body, "the reply")
    except ValueError:
        content = None
    return _error(content) or _beginning(body) or "no reason given"


def _error(content: Any) -> str:
    """The message of an error as servers write it: {"error": {"message"}}, {"error"}, {"message"}, {"detail"}."""
    for name in ("error", "message", "detail"):
        if not isinstance(content, dict):
            return ""
        said = content.get(name)
        if isinstance(said, str) and said.strip():
            return " ".join(said.split())
        content = said if isinstance(said, dict) else content
    return ""


def _beginning(body: bytes) -> str:
    return " ".join(body[:SHOWN].decode("utf-8", "replace").split())


def _described(content: Any, body: bytes) -> str:
    """What an unexpected value says: its error, or its beginning."""
    error = _error(content)
    return f"an error: {error}" if error else f"no choices with a message: {_beginning(body)}"


def _texts(message: Mapping[str, Any]) -> tuple[str, str, str]:
    """The text, the reasoning and the refusal of a message, or of a piece of one."""
    content, refusal = message.get("content"), message.get("refusal")
    reasoning = [field_reasoning(message)]
    if isinstance(content, list):
        texts: list[str] = []
        for part in content:
            written = _part_text(part)
            thought = isinstance(part, dict) and part.get("type") in ("thinking", *REASONING_FIELDS)
            (reasoning if thought else texts).append(written)
        content = "".join(texts)
    if not isinstance(content or "", str) or not isinstance(refusal or "", str):
        raise NotACompletionError("a message whose content is no text")
    return content or "", "".join(reasoning), refusal or ""


def _part_text(part: Any) -> str:
    """The text of one part of a content that is a list."""
    if isinstance(part, str):
        return part
    if isinstance(part, list):
        return "".join(map(_part_text, part))
    if isinstance(part, dict):
        return next((_part_text(part[name]) for name in ("text", "thinking", *REASONING_FIELDS) if name in part), "")
    return ""


def _message(text: str, reasoning: str, refusal: str, finish: Any, content: Mapping[str, Any]) -> Message:
    if not isinstance(finish or "", str):
        raise NotACompletionError("a finish reason that is no text")
    finish = FINISHES.get((finish or "stop").lower(), finish or "stop")
    if finish.lower() in BROKEN_FINISHES:
        raise CutOffError(f"by the server, which gives the finish reason {finish.lower()!r}")
    separated = separate(text)
    thoughts = "\n".join(part for part in (reasoning, separated.reasoning) if part)
    usage, model = content.get("usage"), content.get("model")
    return Message(
        separated.answer,
        thoughts,
        finish,
        refusal,
        usage if isinstance(usage, dict) else {},
        model if isinstance(model, str) else "",
    )
