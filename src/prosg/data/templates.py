"""Chat templates: how model families write a conversation as text, in training, scoring and generation.

    world   System: ...\\n\\nUser: ...\\n\\nAssistant: ...        RWKV World and G1
    pile    Question: ...\\n\\nAnswer: ...                       models of the Pile
    raven   Instruction: ...\\n\\nInput: ...\\n\\nResponse: ...    Raven; Input only after a system turn
    none    prompt and answer without cues
    model   the model's own: the Jinja template in its files (`jinja_template`)

Under the first three a prompt ends with the assistant's cue and no space; the reply begins with the space. A blank line
ends a turn, so blank lines within a turn are removed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

from prosg.tokenizers.base import Tokenizer
from prosg.tokenizers.special import SpecialTokens
from prosg.tokenizers.world import WORLD_FINGERPRINT

__all__ = [
    "NONE",
    "OWN",
    "TEMPLATES",
    "ChatTemplate",
    "CueTemplate",
    "FramedPrompt",
    "OwnTemplate",
    "Turn",
    "known_template",
    "no_system_turn",
    "without_blank_lines",
]

OWN = "model"
"""Name of the model's own template among the names of options."""


class Turn(NamedTuple):
    """One turn of a conversation; role: system, user or assistant."""

    role: str
    text: str


class FramedPrompt(NamedTuple):
    """A prompt as its template writes it, up to where the answer begins."""

    text: str
    cuts: tuple[int, ...] | None = None
    """None: plain text, in which no special token can be spelled. Else the places at which the text is cut before it is
    tokenised: special tokens that the template spells count, those within a turn are cut in two and do not."""

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """Token ids of the text alone, without what has to stand before every prompt."""
        if self.cuts is None:
            return tokenizer.encode(self.text)
        places = pairwise([0, *self.cuts, len(self.text)])
        return [token for start, end in places for token in tokenizer.encode(self.text[start:end], special=True)]

    def prompt_ids(self, tokenizer: Tokenizer, special: SpecialTokens) -> list[int]:
        """Token ids of the whole prompt, with what has to stand before it, which a model's own template writes."""
        ids = self.ids(tokenizer)
        return special.prompt(ids) if self.cuts is None else ids

    def before(self, end: int) -> FramedPrompt:
        """The first `end` characters."""
        cuts = None if self.cuts is None else tuple(cut for cut in self.cuts if cut < end)
        return FramedPrompt(self.text[:end], cuts)

    def after(self, start: int) -> FramedPrompt:
        """What comes after the first `start` characters."""
        cuts = None if self.cuts is None else tuple(cut - start for cut in self.cuts if cut > start)
        return FramedPrompt(self.text[start:], cuts)


@runtime_checkable
class ChatTemplate(Protocol):
    """How a conversation is written: `CueTemplate`, or `JinjaTemplate`."""

    @property
    def name(self) -> str:
        """A key of `TEMPLATES`, or `OWN`."""
        ...

    @property
    def stop(self) -> str:
        """Stop string of generation: the beginning of the user's next turn; "" where there is none."""
        ...

    @property
    def reshapes(self) -> bool:
        """Whether answers are written otherwise than they are: after a space, without blank lines."""
        ...

    def frame(self, turns: Sequence[Turn]) -> FramedPrompt:
        """Writes turns as a prompt, up to where the assistant answers.

        Raises:
            ValueError: for turns that the template cannot write.
        """
        ...

    def opening(self, turn: Turn) -> str | None:
        """The text of a conversation's system turn alone; None where a template does not tell it from the next."""
        ...

    def special(self, own: SpecialTokens, tokenizer: Tokenizer) -> SpecialTokens:
        """What stands before prompts and ends answers under this template, given the model's own."""
        ...

    def jinja(self) -> str:
        """The template as transformers has it: what a model's folder says."""
        ...


@dataclass(frozen=True)
class CueTemplate:
    """A template that writes a cue before each turn: the text that names its role.

    Attributes:
        name: Its key in `TEMPLATES`.
        user: The user's cue.
        assistant: The assistant's cue.
        system: The system's cue; "" where the family has no system turn.
        user_under_system: The user's cue in a conversation with a system turn, if another one; else "".
    """

    name: str
    user: str = ""
    assistant: str = ""
    system: str = ""
    user_under_system: str = ""

    @property
    def stop(self) -> str:
        return f"\n\n{self.user}" if self.user else ""

    @property
    def reshapes(self) -> bool:
        return self.assistant != ""

    def cues(self, system: bool) -> dict[str, str]:
        """Cue by role; `system`: in a conversation with a system turn."""
        user = self.user_under_system if system and self.user_under_system else self.user
        roles = {"system": self.system} if system and self.system else {}
        return roles | {"user": user, "assistant": self.assistant}

    def frame(self, turns: Sequence[Turn]) -> FramedPrompt:
        return FramedPrompt(self._turns(turns) + self.assistant)

    def _turns(self, turns: Sequence[Turn]) -> str:
        if not self.assistant:
            if len(turns) > 1:
                names = [*(name for name in TEMPLATES if name != "none"), OWN]
                raise ValueError(
                    f"a conversation needs a template with cues for its roles; allowed: {', '.join(names)}"
                )
            return turns[0].text
        cues = self.cues(any(turn.role == "system" for turn in turns))
        for turn in turns:
            if turn.role == "system" and "system" not in cues:
                raise ValueError(no_system_turn(self.name))
            if turn.role not in cues:
                raise ValueError(f"template {self.name!r} has no {turn.role} turn; allowed: {', '.join(cues)}")
        return "".join(f"{cues[turn.role]} {without_blank_lines(turn.text).strip()}\n\n" for turn in turns)

    def opening(self, turn: Turn) -> str | None:
        return self._turns([turn])

    def special(self, own: SpecialTokens, tokenizer: Tokenizer) -> SpecialTokens:
        return own

    def jinja(self) -> str:
        """As the class, but for roles that it does not have."""
        if not self.assistant:
            return "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        if not self.user_under_system:
            cues = str(self.cues(bool(self.system)))
        else:
            cues = f"{self.cues(True)} if messages[0]['role'] == 'system' else {self.cues(False)}"
        return (
            "{%- set cues = " + cues + " -%}\n"
            "{%- for message in messages -%}\n"
            "{{- cues[message['role']] + ' ' -}}\n"
            "{%- set text = namespace(begun=false) -%}\n"
            "{%- set lines = message['content'].replace('\\r\\n', '\\n').strip().split('\\n') -%}\n"
            "{%- for line in lines if line.strip(' \\t') -%}\n"
            "{{- ('\\n' if text.begun else '') + line -}}\n"
            "{%- set text.begun = true -%}\n"
            "{%- endfor -%}\n"
            "{{- '\\n\\n' -}}\n"
            "{%- endfor -%}\n"
            "{%- if add_generation_prompt -%}{{- '" + self.assistant + "' -}}{%- endif -%}"
        )


TEMPLATES: dict[str, CueTemplate] = {
    template.name: template
    for template in (
        CueTemplate("none"),
        CueTemplate("world", "User:", "Assistant:", "System:"),
        CueTemplate("pile", "Question:", "Answer:"),
        CueTemplate("raven", "Instruction:", "Response:", "Instruction:", "Input:"),
    )
}
NONE = TEMPLATES["none"]


class OwnTemplate(NamedTuple):
    """The chat templates that a model comes with. Without any, World's is for World's tokenizer, none for others."""

    model: ChatTemplate | None = None
    """what the files of the model, or of an adapter's backbone, say"""
    trained: ChatTemplate | None = None
    """what it was trained with here, so that single prompts are written in it, too; None: not trained here"""

    @property
    def known(self) -> ChatTemplate | None:
        """The one that goes before."""
        return self.model if self.trained is None else self.trained

    def choose(self, name: str, tokenizer: Tokenizer | None) -> ChatTemplate:
        """Returns the template of a name, or the one that goes with the model for "".

        Raises:
            ValueError: for a name that is unknown, and for `OWN` where the model's files have none.
        """
        if known_template(name) not in ("", OWN):
            return TEMPLATES[name]
        known = self.known if not name or self.model is None else self.model
        if known is not None and not (name and known == NONE):
            return known
        if tokenizer is not None and tokenizer.fingerprint == WORLD_FINGERPRINT:
            return TEMPLATES["world"]
        if name:
            raise ValueError(f"template is {OWN!r}, but the model has none of its own; allowed: {', '.join(TEMPLATES)}")
        return NONE

    def reason(self, tokenizer: Tokenizer | None) -> str:
        """Why `choose("")` returns what it does; "" where it is none for want of anything else."""
        if self.trained is not None:
            return "as it was trained"
        if self.model is not None:
            return "from its files"
        return "by its tokenizer" if self.choose("", tokenizer) != NONE else ""


def known_template(name: str) -> str:
    """Returns the name if it is "" (the default), `OWN` or in `TEMPLATES`; else raises ValueError."""
    if name and name != OWN and name not in TEMPLATES:
        raise ValueError(f"template is {name!r}, allowed: {', '.join([*TEMPLATES, OWN])}")
    return name


def no_system_turn(name: str) -> str:
    """What is wrong with a system turn under a template that has none, and what to do."""
    others = ", ".join(template.name for template in TEMPLATES.values() if template.system)
    return (
        f"template {name!r} has no system turn; put what it says into the first user's turn, or name the template of a "
        f"model that was trained with one: {others}"
    )


def without_blank_lines(text: str) -> str:
    """The text with runs of line breaks and blanks between them reduced to one line break."""
    return re.sub(r"\n(?:[ \t]*\n)+", "\n", text.replace("\r\n", "\n"))
