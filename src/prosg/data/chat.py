"""Conversations: rows of messages, and rows of one text in which cues say who speaks.

    {"messages": [{"role": "system" | "user" | "assistant", "content": ...}, ...]}
    {"text": "User: ...\\n\\nAssistant: ..."}

The last turn is the assistant's and is the row's answer; what comes before is its prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prosg.data.templates import TEMPLATES, Turn

__all__ = ["as_messages", "from_messages", "from_text"]

ROLES = ("system", "user", "assistant")


def from_messages(messages: object) -> tuple[Turn, ...]:
    """The turns of a chat row, the answer's last. ValueError says which message is wrong, and what is allowed."""
    if not isinstance(messages, list):
        raise ValueError(f"'messages' must be a list, not {type(messages).__name__}")
    turns = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {number} is an object with 'role' and 'content', not {type(message).__name__}")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"message {number} has the role {role!r}; allowed: {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"message {number} ({role}): 'content' must be text, not {type(content).__name__}")
        turns.append(Turn(str(role), content))
    return _checked(turns, "message")


def from_text(text: object) -> tuple[str, tuple[Turn, ...]]:
    """The template that a text is written in, and its turns, the answer's last; they are apart by blank lines.

    ValueError for a text without cues, and for turns that make no conversation.
    """
    if not isinstance(text, str):
        raise ValueError(f"'text' must be of type str, not {type(text).__name__}")
    text = text.replace("\r\n", "\n").strip()
    openings = {cue: name for name, kind in TEMPLATES.items() for cue in (kind.user, kind.system) if cue}
    name = next((name for cue, name in openings.items() if text.startswith(cue)), None)
    if name is None:
        raise ValueError(f"'text' begins with {text[:20]!r}; allowed: {', '.join(openings)}")
    kind = TEMPLATES[name]
    under = bool(kind.user_under_system) and _places(kind.user_under_system, text) != []
    cues = kind.cues(under or not kind.user_under_system)
    places = sorted((start, end, role) for role, cue in cues.items() for start, end in _places(cue, text))
    if not any(role == "assistant" for _, _, role in places):
        raise ValueError(f"'text' has no {kind.assistant!r} after a blank line; the answer stands behind it")
    ends = [start for start, _, _ in places[1:]] + [len(text)]
    turns = [Turn(role, text[end:stop].strip()) for (_, end, role), stop in zip(places, ends, strict=True)]
    return name, _checked(turns, "turn")


def as_messages(turns: Sequence[Turn], answer: str) -> list[dict[str, str]]:
    """A conversation as a chat row has it."""
    return [{"role": turn.role, "content": turn.text} for turn in (*turns, Turn("assistant", answer))]


def _places(cue: str, text: str) -> list[tuple[int, int]]:
    """Where turns begin with this cue: from the blank line on, and behind the cue."""
    return [match.span() for match in re.finditer(rf"(?:\A|\n[ \t]*\n\s*){re.escape(cue)}", text)]


def _checked(turns: Sequence[Turn], what: str) -> tuple[Turn, ...]:
    """ValueError unless a system turn, if there is one, comes first, and user and assistant then take turns."""
    for number, turn in enumerate(turns, 1):
        if not turn.text.strip():
            raise ValueError(f"{what} {number} ({turn.role}) is empty; it must hold some text")
    if not any(turn.role == "assistant" for turn in turns):
        raise ValueError(f"no {what} is the assistant's; the last one has to be: it is what is learned")
    begin = 1 if turns[0].role == "system" else 0
    for index, turn in enumerate(turns[begin:]):
        expected = ROLES[1 + index % 2]
        if turn.role != expected:
            raise ValueError(
                f"{what} {begin + index + 1} is the {turn.role}'s where the {expected}'s is due; allowed: one system "
                "turn first, then user and assistant in turn"
            )
    if turns[-1].role != "assistant":
        raise ValueError(f"the last {what} is the {turns[-1].role}'s; it has to be the assistant's, which is learned")
    return tuple(turns)
