"""How model families write a conversation: one visible table, used in training, scoring and generating alike.

    world   System: ...\\n\\nUser: ...\\n\\nAssistant: ...        RWKV World and G1
    pile    Question: ...\\n\\nAnswer: ...                       models of the Pile
    raven   Instruction: ...\\n\\nInput: ...\\n\\nResponse: ...    Raven; Input only under an instruction of its own
    none    a prompt as it is, an answer as it is

A prompt ends with the assistant's cue, without a space behind it; the reply begins with the space. A blank line ends a
turn, so those inside a turn are closed up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["TEMPLATES", "Template", "Turn", "closed_up", "frame", "known_template"]


class Turn(NamedTuple):
    """One turn of a conversation; role: system, user or assistant."""

    role: str
    text: str


class Template(NamedTuple):
    """The cues of the roles: what stands before a turn's text."""

    user: str = ""
    assistant: str = ""
    system: str = ""
    """"" where the family has none"""
    user_under_system: str = ""
    """the user's, where it is another one in a conversation with a system turn"""

    @property
    def stop(self) -> str:
        """Where an answer ends that goes on to write the user's next turn; "" where nothing tells."""
        return f"\n\n{self.user}" if self.user else ""

    def cues(self, system: bool) -> dict[str, str]:
        """Role -> cue, in a conversation with a system turn, or without."""
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
    """The name again; ValueError for one that does not exist. "" is allowed: whatever the rows need."""
    if name and name not in TEMPLATES:
        raise ValueError(f"template is {name!r}, allowed: {', '.join(TEMPLATES)}")
    return name


def frame(turns: Sequence[Turn], template: str) -> str:
    """The prompt that these turns make, up to the cue of the answer.

    Raises ValueError for a template that has no cue for one of the roles.
    """
    if template == "none":
        if len(turns) > 1:
            raise ValueError(
                f"a conversation needs a template that says who speaks; allowed: {', '.join(list(TEMPLATES)[1:])}"
            )
        return turns[0].text
    kind = TEMPLATES[template]
    cues = kind.cues(any(turn.role == "system" for turn in turns))
    for turn in turns:
        if turn.role not in cues:
            able = [name for name, other in TEMPLATES.items() if other.system]
            raise ValueError(f"template {template!r} has no {turn.role} turn; allowed: {', '.join(able)}")
    return "".join(f"{cues[turn.role]} {closed_up(turn.text).strip()}\n\n" for turn in turns) + kind.assistant


def closed_up(text: str) -> str:
    """Without blank lines."""
    return re.sub(r"\n(?:[ \t]*\n)+", "\n", text.replace("\r\n", "\n"))
