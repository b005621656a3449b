"""Chat templates: how model families write a conversation as text, in training, scoring and generation.

    world   System: ...\\n\\nUser: ...\\n\\nAssistant: ...        RWKV World and G1
    pile    Question: ...\\n\\nAnswer: ...                       models of the Pile
    raven   Instruction: ...\\n\\nInput: ...\\n\\nResponse: ...    Raven; Input only after a system turn
    none    prompt and answer without cues

A prompt ends with the assistant's cue and no space; the reply begins with the space. A blank line ends a turn, so blank
lines within a turn are removed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["TEMPLATES", "Template", "Turn", "frame", "known_template", "without_blank_lines"]


class Turn(NamedTuple):
    """One turn of a conversation; role: system, user or assistant."""

    role: str
    text: str


class Template(NamedTuple):
    """The cue of each role: the text before its turns.

    Attributes:
        user: The user's cue.
        assistant: The assistant's cue.
        system: The system's cue; "" where the family has no system turn.
        user_under_system: The user's cue in a conversation with a system turn, if another one; else "".
    """

    user: str = ""
    assistant: str = ""
    system: str = ""
    user_under_system: str = ""

    @property
    def stop(self) -> str:
        """Stop string of generation: the beginning of the user's next turn; "" without cues."""
        return f"\n\n{self.user}" if self.user else ""

    def cues(self, system: bool) -> dict[str, str]:
        """Cue by role; `system`: in a conversation with a system turn."""
        user = self.user_under_system if system and self.user_under_system else self.user
        roles = {"system": self.system} if system and self.system else {}
        return roles | {"user": user, "assistant": self.assistant}


TEMPLATES: dict[str, Template] = {
    "none": Template(),
    "world": Template("User:", "Assistant:", "System:"),
    "pile": Template("Question:", "Answer:"),
    "raven": Template("Instruction:", "Response:", "Instruction:", "Input:"),
}


def known_template(name: str) -> str:
    """Returns the name if it is "" (each row's own template) or in `TEMPLATES`; else raises ValueError."""
    if name and name not in TEMPLATES:
        raise ValueError(f"template is {name!r}, allowed: {', '.join(TEMPLATES)}")
    return name


def frame(turns: Sequence[Turn], template: str) -> str:
    """Writes turns as a prompt, up to and including the assistant's cue for the answer.

    Args:
        turns: The turns before the answer.
        template: A name in `TEMPLATES`.

    Raises:
        ValueError: If the template has no cue for a role, or is "none" and there are several turns.
    """
    if template == "none":
        if len(turns) > 1:
            raise ValueError(
                f"a conversation needs a template with cues for its roles; allowed: {', '.join(list(TEMPLATES)[1:])}"
            )
        return turns[0].text
    cues = TEMPLATES[template].cues(any(turn.role == "system" for turn in turns))
    for turn in turns:
        if turn.role not in cues:
            allowed = [name for name, other in TEMPLATES.items() if other.system]
            raise ValueError(f"template {template!r} has no {turn.role} turn; allowed: {', '.join(allowed)}")
    prompt = "".join(f"{cues[turn.role]} {without_blank_lines(turn.text).strip()}\n\n" for turn in turns)
    return prompt + cues["assistant"]


def without_blank_lines(text: str) -> str:
    """The text with runs of line breaks and blanks between them reduced to one line break."""
    return re.sub(r"\n(?:[ \t]*\n)+", "\n", text.replace("\r\n", "\n"))
