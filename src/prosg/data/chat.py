"""Conversations in rows: chat messages, or one text with a cue before each turn.

    {"messages": [{"role": "system" | "user" | "assistant", "content": ...}, ...]}
    {"text": "User: ...\\n\\nAssistant: ..."}

The last turn must be the assistant's and becomes the row's answer; the turns before it become the prompt. Where no
answer is needed, messages may also end with the user's turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prosg.data.templates import TEMPLATES, Turn

__all__ = ["Messages", "answer_offset", "as_messages", "from_messages", "from_text", "is_messages", "prompt_turns"]

Messages = Sequence[Mapping[str, str]]
"""A conversation: {"role", "content"} of each turn; role: system (first, if at all), user or assistant."""

ROLES = ("system", "user", "assistant")


def from_messages(messages: object, need_answer: bool = True) -> tuple[Turn, ...]:
    """Turns of a chat row's "messages"; the last one is the answer.

    Args:
        messages: A list of objects with role and content.
        need_answer: Whether the last turn must be the assistant's; else it may be the user's, too.

    Raises:
        ValueError: Naming the invalid message and what is allowed.
    """
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
    return _valid_turns(turns, "message", need_answer)


def is_messages(value: object) -> bool:
    """Whether a value is meant as one conversation: a list of objects."""
    return isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(one, Mapping) for one in value)


def prompt_turns(messages: Messages) -> tuple[Turn, ...]:
    """Turns of a prompt that is given as messages.

    Raises:
        ValueError: naming the invalid message and what is allowed; also where the last one is not the user's.
    """
    turns = from_messages([*messages], need_answer=False)
    if turns[-1].role != "user":
        raise ValueError(f"the last message is the {turns[-1].role}'s; that of a prompt has to be the user's")
    return turns


def from_text(text: object) -> tuple[str, tuple[Turn, ...]]:
    """Parses a "text" row, whose turns begin with a cue and are separated by blank lines.

    Returns:
        The name of the template that the cues belong to, and the turns; the last one is the answer.

    Raises:
        ValueError: If the text has no cues, or its turns do not alternate as in a conversation.
    """
    if not isinstance(text, str):
        raise ValueError(f"'text' must be of type str, not {type(text).__name__}")
    text = text.replace("\r\n", "\n").strip()
    name, spans = _find_turns(text)
    return name, _turns(text, spans)


def answer_offset(text: str) -> tuple[str, int] | None:
    """Finds the answer of a "text" row.

    Returns:
        The name of the template whose cues the text has, and the character at which its answer begins, right after the
        last cue; None for other texts.
    """
    before = len(text) - len(text.lstrip())
    text = text.strip()
    try:
        name, spans = _find_turns(text)
        _turns(text, spans)
    except ValueError:
        return None
    return name, before + spans[-1][1]


def _find_turns(text: str) -> tuple[str, list[tuple[int, int, str]]]:
    """The template that a stripped text is written in, and the spans and roles of its turns' cues, as `from_text`."""
    openings = {cue: name for name, template in TEMPLATES.items() for cue in (template.user, template.system) if cue}
    name = next((name for cue, name in openings.items() if text.startswith(cue)), None)
    if name is None:
        raise ValueError(f"'text' begins with {text[:20]!r}; allowed: {', '.join(openings)}")
    template = TEMPLATES[name]
    under_system = bool(template.user_under_system) and _cue_spans(template.user_under_system, text) != []
    cues = template.cues(under_system or not template.user_under_system)
    spans = sorted((start, end, role) for role, cue in cues.items() for start, end in _cue_spans(cue, text))
    if not any(role == "assistant" for _, _, role in spans):
        raise ValueError(f"'text' has no {template.assistant!r} after a blank line; it must precede the answer")
    return name, spans


def _turns(text: str, spans: Sequence[tuple[int, int, str]]) -> tuple[Turn, ...]:
    """The turns after their cues; ValueError unless they alternate as in a conversation."""
    ends = [start for start, _, _ in spans[1:]] + [len(text)]
    turns = [Turn(role, text[end:stop].strip()) for (_, end, role), stop in zip(spans, ends, strict=True)]
    return _valid_turns(turns, "turn")


def as_messages(turns: Sequence[Turn], answer: str) -> list[dict[str, str]]:
    """The "messages" of a conversation: its turns, then the answer."""
    return [{"role": turn.role, "content": turn.text} for turn in (*turns, Turn("assistant", answer))]


def _cue_spans(cue: str, text: str) -> list[tuple[int, int]]:
    """Spans of a cue at the beginning of a turn, including the blank lines before it."""
    first = [(0, len(cue))] if text.startswith(cue) else []
    # A pattern with the cue at its end would try every line break of a run of them, and every end: quadratic time.
    gaps = [match.span() for match in re.finditer(r"\n[ \t]*\n\s*", text)]
    return first + [(start, end + len(cue)) for start, end in gaps if text.startswith(cue, end)]


def _valid_turns(turns: Sequence[Turn], what: str, need_answer: bool = True) -> tuple[Turn, ...]:
    """The turns; ValueError unless they are an optional system turn, then user and assistant in turn."""
    for number, turn in enumerate(turns, 1):
        if not turn.text.strip():
            raise ValueError(f"{what} {number} ({turn.role}) is empty; it must hold some text")
    if need_answer and not any(turn.role == "assistant" for turn in turns):
        raise ValueError(f"no {what} is the assistant's; the last one has to be, as the answer to learn")
    if not turns:
        raise ValueError(f"there is no {what}; at least one is needed")
    begin = 1 if turns[0].role == "system" else 0
    for index, turn in enumerate(turns[begin:]):
        expected = ROLES[1 + index % 2]
        if turn.role != expected:
            raise ValueError(
                f"{what} {begin + index + 1} is the {turn.role}'s where the {expected}'s is expected; allowed: one "
                "system turn first, then user and assistant in turn"
            )
    if turns[-1].role == "system":
        raise ValueError(f"the last {what} is the system's; the user's has to follow")
    if need_answer and turns[-1].role != "assistant":
        raise ValueError(f"the last {what} is the {turns[-1].role}'s; it has to be the assistant's, as the answer")
    return tuple(turns)
