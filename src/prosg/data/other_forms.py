"""Rows as other programs write them, turned into {"prompt", "answer"} or {"messages"}.

{"instruction", "input", "output"}             Alpaca, with {"system"} and {"history": [[user, assistant], ...]}
{"prompt", "completion"}                       TRL: two texts, or two lists of messages
{"conversations": [{"from", "value"}, ...]}    ShareGPT, with {"system"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["as_own_form"]

SPEAKERS = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
OWN = ("prompt", "answer", "messages")


def as_own_form(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a row in this package's form; what is in no known form comes back as it is.

    Raises:
        ValueError: naming the field and what is allowed.
    """
    if "completion" in data and "answer" not in data and "messages" not in data:
        return _completion(data)
    if "prompt" in data and "messages" in data and "answer" not in data:
        return _both(data)
    if any(key in data for key in OWN):
        return data
    if "conversations" in data:
        return _conversation(data)
    if "instruction" in data and "instances" not in data:
        return _instruction(data)
    return data


def _both(data: Mapping[str, Any]) -> dict[str, Any]:
    messages = data["messages"]
    said = [one.get("content") for one in messages if isinstance(one, Mapping)] if isinstance(messages, list) else []
    if data["prompt"] not in said:
        raise ValueError("'prompt' and 'messages' are both there, and the prompt is none of the messages; give one")
    return _without(data, "prompt")


def _completion(data: Mapping[str, Any]) -> dict[str, Any]:
    rest = _without(data, "prompt", "completion")
    prompt, completion = data.get("prompt"), data["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return {**rest, "messages": [*prompt, *completion]}
    if isinstance(prompt, list) or isinstance(completion, list):
        raise ValueError("'prompt' and 'completion' must be two texts, or two lists of messages")
    return {**_without(data, "completion"), "answer": completion}


def _conversation(data: Mapping[str, Any]) -> dict[str, Any]:
    turns = data["conversations"]
    if not isinstance(turns, list):
        raise ValueError(f"'conversations' must be a list, not {type(turns).__name__}")
    messages = _system(data)
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, Mapping):
            raise ValueError(f"turn {number} is an object with 'from' and 'value', not {type(turn).__name__}")
        speaker = turn.get("from")
        if "from" not in turn and "role" in turn:
            messages.append(turn)
        elif isinstance(speaker, str) and speaker in SPEAKERS:
            messages.append({"role": SPEAKERS[speaker], "content": turn.get("value")})
        else:
            raise ValueError(f"turn {number} is from {speaker!r}; allowed: {', '.join(SPEAKERS)}")
    return {**_without(data, "conversations", "system"), "messages": messages}


def _instruction(data: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("instruction", "input", "output"):
        if not isinstance(data.get(key, ""), str):
            raise ValueError(f"{key!r} must be of type str, not {type(data[key]).__name__}")
    # Some files have both joined under a heading as "text", too.
    rest = _without(data, "instruction", "input", "output", "system", "history", "text")
    answer = {"answer": data["output"]} if "output" in data else {}
    prompt = "\n\n".join(text for text in (data["instruction"], data.get("input", "")) if text.strip())
    before = [*_system(data), *_history(data)]
    if not before:
        return {**rest, "prompt": prompt, **answer}
    last = [{"role": "assistant", "content": text} for text in answer.values()]
    return {**rest, "messages": [*before, {"role": "user", "content": prompt}, *last]}


def _system(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [{"role": "system", "content": data["system"]}] if data.get("system") else []


def _history(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    history = data.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise ValueError("'history' must be a list of pairs, what the user and what the assistant said")
    return [
        {"role": role, "content": text}
        for pair in history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def _without(data: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in keys}
