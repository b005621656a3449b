"""A request on its way: what it still has to read, what it has written, and whom that is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future

from prosg.core.encoded import EncodedPrompt, Memory
from prosg.generation.text import AnswerStream
from prosg.model.reading import PromptReader
from prosg.serving.request import Chosen, Finished, Piece, Reason, Request
from prosg.tokenizers.base import Tokenizer

__all__ = ["Answering", "Listener"]

Listener = Callable[[Piece | Finished], None]
"""What is told of an answer, on the engine's thread: it must not wait."""
_log = logging.getLogger(__name__)


def _nobody(_: Piece | Finished) -> None:
    """Listens once all has been told."""


class Answering:
    """A request that was taken, from its arrival to its end.

    Attributes:
        request: What is wanted.
        memory: What holds its prompt; None for an encoded prompt as it is.
        prompt: The ids that memory holds; none where they are encoded.
        rest: The ids that are read under the memory.
        future: Where the prompt goes once it is read; None where an answer is wanted.
        reader: Reads `prompt`; None before and after that.
        place: Where in the text it is; None until `prompt` is read.
        chain: Of the cache, for `rest`; "" where the cache is not for it.
        read: Ids that are read: of `prompt`, and after that of `rest`.
        cached: Ids, of both together, that did not have to be read.
        written: Tokens of the answer.
        cancelled: Whether it is not wanted any more.
        ended: Whether its end has been told.
        reason: Why it ended.
        arrived: `time.monotonic()` when it was taken.
    """

    def __init__(
        self,
        request: Request,
        listener: Listener,
        tokenizer: Tokenizer | None,
        memory: Memory | None,
        future: Future[EncodedPrompt] | None = None,
    ) -> None:
        """Takes a request in; `memory` is the request's, or the model's own."""
        self.request, self.memory, self.future = request, memory, future
        self._listener = listener
        self._stream = None if tokenizer is None else AnswerStream(tokenizer, request.sampling.stop)
        # Without anything that acts from the prompt's end on, there is no end: all is read alike.
        prefix = 0 if memory == "none" else request.prefix
        prompt = 0 if request.encoded is not None else prefix or len(request.ids)
        self.prompt, self.rest = request.ids[:prompt], request.ids[prompt:]
        self.reader: PromptReader | None = None
        self.place: EncodedPrompt | None = None
        self.chain = ""
        self.read = self.cached = self.written = 0
        self.cancelled = self.ended = False
        self.reason: Reason = "stop"
        self.arrived = time.monotonic()
        self._untold: list[Chosen] = []

    @property
    def reading(self) -> tuple[int, ...]:
        """The ids of which `read` are read."""
        return self.prompt if self.place is None else self.rest

    @property
    def left(self) -> int:
        """Ids that are still to be read before the answer can begin."""
        return len(self.prompt) * (self.place is None) + len(self.rest) - self.read

    def next_ids(self, most: int) -> tuple[int, ...]:
        """The ids to be read next, at most so many."""
        return self.reading[self.read : self.read + most]

    def is_over(self, now: float) -> Reason | None:
        """Why it has to end before its time, if it has to."""
        if self.cancelled:
            return "cancelled"
        deadline = self.request.deadline
        return "deadline" if deadline is not None and now >= deadline else None

    def write(self, chosen: Chosen) -> None:
        """Takes a token of the answer in, which is no end token, and tells what can be told."""
        assert self._stream is not None
        self.written += 1
        self._untold.append(chosen._replace(place=self._stream.decoded))
        text = self._stream.push(chosen.id)
        if self._stream.ended:
            self._close("stop", text)
        elif self.written == self.request.sampling.max_tokens:
            self._close("length", text + self._stream.end())
        elif text:
            self._tell_piece(text)

    def end(self, reason: Reason, error: str | None = None) -> None:
        """Ends it, and tells the text that was held back."""
        self._close(reason, "" if self._stream is None else self._stream.end(), error)

    def fail(self, error: Exception) -> None:
        """Ends it by an error."""
        reason = f"{type(error).__name__}: {error}"
        try:
            self.end("error", reason)
        except Exception:  # the text that was held back is to blame
            self._stream = None
            self.end("error", reason)

    def _close(self, reason: Reason, text: str, error: str | None = None) -> None:
        """Tells the last text, and why it is the last."""
        self.ended, self.reason = True, reason
        self.reader = self.place = None
        if text or self._untold:
            self._tell(Piece(text, tuple(self._untold)))
        self._untold = []
        if self.future is not None and not self.future.done():
            self.future.set_exception(RuntimeError(error or f"the prompt was not encoded: {reason}"))
        stop = None if self._stream is None else self._stream.stop or None
        self._tell(Finished(reason, len(self.request.ids), self.cached, self.written, stop, error))
        self._listener = _nobody  # most have the request's handle: a cycle, which would stay until a full collection

    def _tell_piece(self, text: str) -> None:
        """Tells a text, and the tokens that have begun in what was told."""
        assert self._stream is not None
        told = sum(chosen.place < self._stream.returned for chosen in self._untold)
        tokens, self._untold = self._untold[:told], self._untold[told:]
        self._tell(Piece(text, tuple(tokens)))

    def _tell(self, event: Piece | Finished) -> None:
        try:
            self._listener(event)
        except Exception:  # whoever listens is to blame, and must not stop the others
            _log.exception("a listener failed; its request is cancelled")
            self.cancelled = True
