"""A model's reasoning and its answer, told apart: the one place where that is decided.

Models that reason write it between tags, often without the opening tag (which the chat template has written), without
the closing one (where the limit of tokens came first), or in a field of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["REASONING_FIELDS", "Separated", "field_reasoning", "separate"]

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thoughts")
"""What servers call the field of a message that holds its reasoning."""
NAMES = (
    r"(?:seed:|antml:)?"
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|inner_monologue|chain_of_thought)(?:_process)?"
)
TAG = re.compile(
    rf"""(?<![`"'\\])(?:
        (?P<open>
            <\|?(?:begin_of_|start_)?{NAMES}(?:\s[^<>]*)?\|?> | \[{NAMES}\] | ◁{NAMES}▷
          | (?:<\|start\|>assistant)?<\|channel\|>\s*(?:analysis|commentary)[^<>]*<\|message\|>
        )
      | (?P<close>
            <\|?(?:/\s*|end_of_|end_){NAMES}\s*\|?> | \[/{NAMES}\] | ◁/{NAMES}▷
          | (?:<\|(?:end|return)\|>)?(?:<\|start\|>assistant)?<\|channel\|>\s*final[^<>]*<\|message\|>
        )
      | (?P<end> <\|(?:return|end)\|>\s*$ )
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""Tags of reasoning, and the channels that some models write. A tag that is quoted is talked about, not used."""


class Separated(NamedTuple):
    """What a model answers, and what it wrote on the way there ("" if nothing)."""

    answer: str
    reasoning: str


def separate(text: str) -> Separated:
    """Separates the reasoning in a text from its answer.

    What stands between an opening and a closing tag is reasoning; so is everything before a closing tag without an
    opening one, and everything after an opening tag that is never closed. A text without tags is returned as it is.
    """
    answer: list[str] = []
    reasoning: list[str] = []
    inside, position = False, 0
    for tag in TAG.finditer(text):
        piece = text[position : tag.start()]
        if inside:
            reasoning.append(piece)
        elif tag["close"]:
            reasoning += [*answer, piece]
            answer = []
        else:
            answer.append(piece)
        inside = bool(tag["open"]) or (inside and bool(tag["end"]))
        position = tag.end()
    if not position:
        return Separated(text, "")
    (reasoning if inside else answer).append(text[position:])
    return Separated("".join(answer).strip(), "\n".join(part.strip() for part in reasoning if part.strip()))


def field_reasoning(message: Mapping[str, Any]) -> str:
    """Returns the reasoning that a message, or a piece of one, holds in a field beside its content; "" if none."""
    return next((text for name in REASONING_FIELDS if isinstance(text := message.get(name), str) and text), "")
