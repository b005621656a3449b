"""Conversations: several turns with a model, whose first prompt is held while they go on.

The system turn, or else the first user's turn, is the prompt: its anchor and its update act from its end on. Later
turns are read on from the state that the conversation is in, each once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack, get_args

import torch

from prosg.core.encoded import EncodedPrompt, Memory
from prosg.core.state import pulling_rows
from prosg.data.chat import Messages
from prosg.data.templates import ChatTemplate, FramedPrompt, Turn
from prosg.generation.decode import advance
from prosg.generation.sampling import Sampling, SamplingOptions
from prosg.generation.text import stream_text
from prosg.model.prosg import ProSG
from prosg.model.turns import clean_answer, conversation_text, opening_text, with_answer
from prosg.utils.values import to_json_number

__all__ = ["Conversation", "Renewal"]

Renewal = Literal["never", "turn"]
"""When the prompt that is held is taken anew: never, or at the end of each user's turn, from the whole conversation."""


class Conversation:
    """Turns with a model, and the place in the text at which they are.

    Attributes:
        model: What answers; it needs a tokenizer.
        template: How turns are written.
        memory: What holds the prompt beside the state; see `ProSG.encode`.
        tau: Window of the anchor, tokens; None for the model's own, or the backbone's default.
        renew: When the prompt that is held is taken anew.
        turns: What was said, as (role, text).
    """

    def __init__(
        self,
        model: ProSG,
        template: str = "",
        *,
        memory: Memory | None = None,
        tau: float | None = None,
        renew: Renewal = "never",
        system: str = "",
    ) -> None:
        """Begins without a turn, but that of the system if `system` is given.

        Args:
            model: As attribute.
            template: Name of a template; the model's own (`ProSG.template`) by default.
            memory: As attribute.
            tau: As attribute.
            renew: As attribute.
            system: What the system turn says.

        Raises:
            ValueError: for a model without a tokenizer, an unknown template, one without a system turn if there is to
                be one, a memory that the model cannot have, and another word for `renew`.
        """
        self.model = model
        model.tokenise([])  # says what to do without a tokenizer
        self.template: ChatTemplate = model.own_template.choose(template, model.tokenizer)
        self.memory, self.tau, self.renew = model.check_memory(memory, tau), tau, _checked_renewal(renew)
        self.turns: list[Turn] = []
        self._read, self._held_text = "", ""  # text that has been read, and that of the prompt that is held
        self._place: EncodedPrompt | None = None
        self._held: EncodedPrompt | None = None  # the prompt, with its update where the model makes one
        self._before: tuple[str, EncodedPrompt] | None = None  # the place before the last answer
        self.system = system

    @property
    def system(self) -> str:
        """What the system turn says; "" without one."""
        return self.turns[0].text if self.turns and self.turns[0].role == "system" else ""

    @system.setter
    def system(self, text: str) -> None:
        """Begins anew under another system turn; "" for none."""
        if text:
            self._text([Turn("system", text), Turn("user", "")])  # says where a template has no system turn
        self.turns = [Turn("system", text)] if text else []
        self._read, self._held_text, self._place, self._held, self._before = "", "", None, None, None

    @property
    def acting(self) -> tuple[str, ...] | None:
        """What acts for the prompt that is held: "update", "anchor", both, or nothing; None before the first turn."""
        if self._place is None:
            return None
        anchor = self._place.anchor
        acts = {"update": self._place.has_updates, "anchor": anchor is not None and bool(pulling_rows(anchor).all())}
        return tuple(name for name, does in acts.items() if does)

    @property
    def known(self) -> bool | None:
        """Whether the module was trained on prompts like the one that is held; None where it does not tell."""
        return None if self._held is None or self._held.known is None else bool(self._held.known.all())

    def reset(self) -> None:
        """Forgets all turns but the system's."""
        self.system = self.system

    def hold(self, memory: Memory, tau: float | None = None) -> None:
        """Changes what holds the prompt from here on; the state stays as it is.

        Raises:
            ValueError: for a memory that the model cannot have.
        """
        before = self.memory, self.tau
        self.memory, self.tau = self.model.check_memory(memory, tau), tau
        try:
            place = None if self._place is None else self._under_memory(self._place)
            earlier = None if self._before is None else (self._before[0], self._under_memory(self._before[1]))
        except ValueError:  # it is held as before
            self.memory, self.tau = before
            raise
        self._place, self._before = place, earlier

    def ask(self, text: str, **sampling: Unpack[SamplingOptions]) -> Iterator[str]:
        """Reads a user's turn and yields the pieces of the answer as they come.

        An answer that is not taken to its end, as when it is interrupted, stands in the conversation as far as it came.

        Args:
            text: What the user says.
            sampling: Options of `Sampling`. The template's stop string is added.

        Raises:
            ValueError: for an empty text.
        """
        if not text.strip():
            raise ValueError("a turn is empty; it needs at least one character")
        options = self._options(sampling)
        before = self._read, self._held_text, self._place, self._held
        try:
            self._hear(Turn("user", text))
        except BaseException:  # interrupted, too: the conversation stays as it was
            self._read, self._held_text, self._place, self._held = before
            raise
        yield from self._answer(options)

    def again(self, **sampling: Unpack[SamplingOptions]) -> Iterator[str]:
        """Yields another answer in the last one's place; give it another seed.

        Raises:
            ValueError: where there is no answer yet.
        """
        if self._before is None:
            raise ValueError("there is no answer yet to write again")
        options = self._options(sampling)
        self.turns.pop()
        self._read, self._place = self._before
        yield from self._answer(options)

    def to_dict(self) -> dict[str, Any]:
        """JSON values from which `resume` takes the conversation up."""
        return {
            "template": self.template.name,
            "memory": self.memory,
            "tau": to_json_number(self.tau),
            "renew": self.renew,
            "messages": [{"role": turn.role, "content": turn.text} for turn in self.turns],
        }

    def resume(
        self,
        said: Sequence[Turn] | Messages,
        *,
        memory: Memory | None = None,
        tau: float | None = None,
        renew: Renewal | None = None,
    ) -> None:
        """Reads turns that were said before, as if they had been said here; where it fails all stays as it was.

        Args:
            said: The turns, also as messages of role and content.
            memory: What holds the prompt, while they are read and from then on; what did so far by default.
            tau: Window of its anchor, tokens; only with `memory`.
            renew: As attribute; as so far by default.

        Raises:
            ValueError: for turns that do not alternate between user and assistant, after at most one of the system, and
                for a memory that the model cannot have.
        """
        held = (self.memory, self.tau) if memory is None else (self.model.check_memory(memory, tau), tau)
        renew = self.renew if renew is None else _checked_renewal(renew)
        turns = []
        for number, turn in enumerate(said, 1):
            if not isinstance(turn, Turn):
                role, content = (turn.get(key) if isinstance(turn, Mapping) else None for key in ("role", "content"))
                if not isinstance(role, str) or not isinstance(content, str):
                    raise ValueError(f"message {number} has no role and content that are texts")
                turn = Turn(role, content)
            turns.append(turn)
        rest = [turn for turn in turns if turn.role != "system"]
        wanted = ["user", "assistant"] * (len(rest) // 2 + 1)
        if [turn.role for turn in rest] != wanted[: len(rest)] or [t.role for t in turns[1:]].count("system"):
            raise ValueError("a conversation is at most one system turn, then user and assistant in turn")
        if rest and rest[-1].role == "user":
            raise ValueError("a conversation that is taken up ends with the assistant's turn")
        before = dict(vars(self))
        try:
            (self.memory, self.tau), self.renew = held, renew
            self.system = turns[0].text if turns and turns[0].role == "system" else ""
            for asked, answered in zip(rest[::2], rest[1::2], strict=True):
                self._hear(asked)
                assert self._place is not None
                self._before = (self._read, self._place)
                self._said(answered.text)
        except BaseException:
            vars(self).update(before)
            raise

    def _options(self, sampling: SamplingOptions) -> Sampling:
        """Options of an answer, which ends where the user's next turn would begin."""
        stop = sampling.get("stop", ())
        stops = [*((stop,) if isinstance(stop, str) else stop), *filter(None, [self.template.stop])]
        options = sampling.copy()
        options["stop"] = stops
        assert self.model.tokenizer is not None
        options.setdefault("end_token", self.template.special(self.model.special, self.model.tokenizer).end)
        return self.model.sampling(**options)

    def _hear(self, asked: Turn) -> None:
        """Takes a user's turn into the conversation."""
        whole = self._text([*self.turns, asked])
        self._read_on(whole)
        if self.renew == "turn" and self.turns:
            self._renew(whole)
        self.turns.append(asked)

    def _answer(self, options: Sampling) -> Iterator[str]:
        assert self._place is not None
        self._before = (self._read, self._place)
        written: list[str] = []
        try:
            for piece in stream_text(self.model.backbone, self._place, self.model.tokenizer, options):
                written.append(piece)
                yield piece
        finally:
            # Read again as text: what was drawn may go beyond a stop string.
            self._said("".join(written))

    def _said(self, text: str) -> None:
        """Takes an answer into the conversation."""
        answer = clean_answer(text, self.template)
        self.turns.append(Turn("assistant", answer))
        self._read_on(with_answer(self._read, answer, self.template))

    def _text(self, turns: Sequence[Turn]) -> FramedPrompt:
        """The whole conversation as text, up to where the assistant answers."""
        return conversation_text(turns, self.template)

    def _read_on(self, whole: FramedPrompt) -> None:
        """Reads what is new of a text.

        Most begin as the one before. A model's own template may write what was said otherwise later on, the date or an
        answer's reasoning: then all that comes after the prompt that is held is read anew.
        """
        if self._place is not None and not whole.text.startswith(self._read):
            assert self._held is not None
            kept = whole.text.startswith(self._held_text)
            self._place, self._read = (self._under_memory(self._held), self._held_text) if kept else (None, "")
        if self._place is None:
            self._begin(whole)
        tokenizer = self.model.tokenizer
        assert tokenizer is not None and self._place is not None
        if ids := whole.after(len(self._read)).ids(tokenizer):
            tokens = torch.tensor([ids], device=self._place.logits.device)
            self._place = advance(self.model.backbone, self._place, tokens)
        self._read = whole.text

    def _begin(self, whole: FramedPrompt) -> None:
        """Encodes the prompt that is held: the system's turn, or all of the text."""
        prompt = opening_text(self.turns, self.template, whole) if self.system else whole
        memory: Memory = "none" if self.model.synthesizer is None else "update"
        self._held = self.model.encode(prompt, memory=memory, template=self.template.name)
        self._held_text = self._read = prompt.text
        self._place = self._under_memory(self._held)

    def _renew(self, whole: FramedPrompt) -> None:
        """Holds the conversation as it is now instead of its first prompt."""
        assert self._place is not None
        held = self._place
        if self.model.synthesizer is not None:  # under whatever memory, which may be changed later
            read = self.model.encode(whole, memory="update", template=self.template.name)
            held = read.replace(state=held.state, logits=held.logits)
        self._held, self._held_text = held.replace(anchor=None), whole.text
        self._place = self._under_memory(held)

    def _under_memory(self, place: EncodedPrompt) -> EncodedPrompt:
        """A place with the prompt's update and anchor, as far as `memory` has them."""
        assert self._held is not None
        held = self.model.held_by(self._held.replace(anchor=None), self.memory, self.tau)
        return place.replace(update=held.update, anchor=held.anchor, limit=held.limit)


def _checked_renewal(renew: Renewal) -> Renewal:
    if renew not in get_args(Renewal):
        raise ValueError(f"renew is {renew!r}; allowed: {', '.join(get_args(Renewal))}")
    return renew
