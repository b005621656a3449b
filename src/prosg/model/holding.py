"""What holds a prompt while its answer is written: the memory that is asked for, of what the model has.

none      the state alone            anchor    the state is pulled back to the prompt's
update    the weights are changed    both, and auto: the one or the other, as the module knows the prompt

Under auto a prompt that the module does not know has its state alone where no memory can be pulled back: in a model of
attention that sees the whole text, the prompt stays as it is, and an update could only do harm.
"""

from __future__ import annotations

from torch import Tensor

from prosg.core.encoded import MEMORIES, EncodedPrompt, Memory, with_anchor, with_update
from prosg.core.state import choose_rows, memory_limit, no_pull, pulling_rows
from prosg.core.update import keep_rows
from prosg.model.anchor import StateAnchor
from prosg.model.base_synthesizer import BaseSynthesizer
from prosg.model.fitting import check_fits
from prosg.model.text_model import TextModel
from prosg.utils.values import check_number

__all__ = ["HoldingModel"]


class HoldingModel(TextModel):
    """A model whose prompts are held by a memory; `ProSG` is the one that makes updates.

    Attributes:
        synthesizer: The module, of a preset or any `BaseSynthesizer`; None for the backbone alone.
        anchor: The windows of the model's own anchor, learned or trained with; None for a model without.
    """

    synthesizer: BaseSynthesizer | None
    anchor: StateAnchor | None

    @property
    def memory(self) -> Memory:
        """What holds prompts unless a call says otherwise: the update and the anchor that the model has, if any.

        With a module that tells which prompts it knows, and no anchor of the model's own, "auto".
        """
        if self.anchor is not None:
            return "anchor" if self.synthesizer is None else "both"
        if self.synthesizer is None:
            return "none"
        return "auto" if self.synthesizer.is_selective and (self._can_anchor or self.backbone.continues) else "update"

    @property
    def _can_anchor(self) -> bool:
        return bool(self.backbone.anchor_units)

    def pulls_back(self, memory: Memory) -> bool:
        """Whether states of this model are pulled back under a memory, those of some prompts at least."""
        return with_anchor(memory) and (memory != "auto" or self._can_anchor)

    def check_memory(self, memory: Memory | None, tau: float | None = None, age: float | None = None) -> Memory:
        """Returns `memory`, or the model's own for None.

        Raises:
            ValueError: for an unknown name, an update where there is no module, and an anchor that cannot be had.
        """
        memory = self.memory if memory is None else memory
        for name, tokens in (("tau", tau), ("age", age)):
            if tokens is not None:
                check_number(name, tokens, infinite=True)
        if memory not in MEMORIES:
            raise ValueError(f"memory is {memory!r}; allowed: {', '.join(MEMORIES)}")
        if with_update(memory) and self.synthesizer is None:
            raise ValueError(
                f"memory is {memory!r}: this model has no module that makes updates; allowed: none, anchor"
            )
        unset = tau is None and age is None
        if with_anchor(memory) and not (memory == "auto" and unset and self.memory == "auto"):
            self._anchor(tau, age)
        for name, value in () if with_anchor(memory) else (("tau", tau), ("age", age)):
            if value is not None:
                raise ValueError(f"{name} is {value:g}, but memory is {memory!r}: it is for anchor, both or auto")
        return memory

    def _anchor(self, tau: float | None, age: float | None) -> StateAnchor:
        """The model's own anchor, or one with this window and age."""
        if self.anchor is not None and tau is None and age is None:
            return self.anchor
        return StateAnchor(self.backbone, tau, age)

    def anchored(self, encoded: EncodedPrompt, tau: float | None = None, age: float | None = None) -> EncodedPrompt:
        """Anchors prompts to the states that they are in, for what is written from here on.

        Args:
            encoded: The prompts; also a later place in a text, as the end of a conversation's turn.
            tau: Window, tokens; that of the model's own anchor, or the backbone's default.
            age: Empty tokens by which the state's memory is aged; likewise.

        Raises:
            ValueError: for values out of range, and a backbone whose states cannot be anchored.
        """
        return encoded.replace(anchor=self._anchor(tau, age)(self.backbone, encoded.state))

    def held_by(
        self, encoded: EncodedPrompt, memory: Memory, tau: float | None = None, age: float | None = None
    ) -> EncodedPrompt:
        """Returns encoded prompts as `memory` holds them: without what it does not name, anchored where it says so.

        Args:
            encoded: The prompts, as `encode` returns them. Anchors that are there are kept, unless `tau` or `age` is
                given.
            memory: "none", "anchor", "update", "both" or "auto".
            tau: Window of the anchor, as in `encode`.
            age: Empty tokens by which its memory is aged, as in `anchored`.

        Raises:
            ValueError: for an update that is not there, prompts of another model, and as `anchored`.
        """
        check_fits(encoded, self.backbone)
        memory = self.check_memory(memory, tau, age)
        if with_update(memory) and (encoded.update is None or (memory != "auto" and not encoded.has_updates)):
            raise ValueError(f"memory is {memory!r}, but the prompt was encoded without an update")
        return self.hold(encoded, memory, tau, age)

    def hold(
        self, encoded: EncodedPrompt, memory: Memory, tau: float | None, age: float | None = None
    ) -> EncodedPrompt:
        """`held_by` for a memory that was checked, of prompts that have what it names."""
        known = encoded.known if memory == "auto" else None
        update = encoded.update if with_update(memory) else None
        if update is not None and known is not None:
            update = keep_rows(update, known)
        encoded = encoded.replace(update=update, limit=self._limit(encoded, known) if update is not None else None)
        needless = memory == "auto" and (known is None or bool(known.all()))
        if needless or not self.pulls_back(memory):
            return encoded.replace(anchor=None)
        held = self.anchored(encoded, tau, age)
        assert held.anchor is not None
        anchor, kept = held.anchor, encoded.anchor
        if kept is not None and tau is None and age is None:
            anchor = choose_rows(pulling_rows(kept), kept, anchor)
        if known is not None:
            anchor = choose_rows(known, no_pull(anchor, encoded.batch), anchor)
        return held.replace(anchor=anchor)

    def _limit(self, encoded: EncodedPrompt, known: Tensor | None) -> Tensor | None:
        """How large memories may grow beside an update, which holds the prompt: they have to hear the answer alone."""
        if not self.backbone.memory_grows:
            return None
        limit = memory_limit(encoded.state) if encoded.limit is None else encoded.limit
        return limit if known is None else limit * known.unsqueeze(1)
