"""Answers while the engine writes them: from its thread into the server's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress

from prosg.serving.answering import Listener
from prosg.serving.api.errors import ApiError, retry_after, server_ends
from prosg.serving.api.requests import Job
from prosg.serving.api.service import Service
from prosg.serving.engine import Handle
from prosg.serving.request import Finished, Piece
from prosg.serving.waiting import EngineStopped, QueueFull

__all__ = ["Running", "ended_badly"]


class Running:
    """The answers to one request, which the engine has taken on.

    Attributes:
        ends: How each choice ended, by its number.
    """

    def __init__(self, service: Service, job: Job) -> None:
        """Submits all requests of a job, or none: must be called in the event loop.

        Raises:
            ApiError: 429 where too many wait, 400 for what the engine refuses, 503 once it is stopped.
        """
        self.ends: dict[int, Finished] = {}
        self._events: asyncio.Queue[tuple[int, Piece | Finished]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._choices = len(job.requests)
        self._handles: list[Handle] = []
        try:
            for choice, request in enumerate(job.requests):
                self._handles.append(service.engine.submit(request, self._listener(choice)))
        except QueueFull as full:
            self.cancel()
            raise ApiError(
                429, "too many requests wait; try again later", code="overloaded", headers=retry_after(full.seconds)
            ) from None
        except EngineStopped:
            self.cancel()
            raise server_ends() from None
        except ValueError as error:
            self.cancel()
            raise ApiError(400, str(error)) from None

    def _listener(self, choice: int) -> Listener:
        def listen(event: Piece | Finished) -> None:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waits
                self._loop.call_soon_threadsafe(self._events.put_nowait, (choice, event))

        return listen

    async def events(self) -> AsyncIterator[tuple[int, Piece | Finished]]:
        """Yields (choice, event) until all choices have ended."""
        while len(self.ends) < self._choices:
            waiting = [await self._events.get()]
            while not self._events.empty():
                waiting.append(self._events.get_nowait())
            for choice, event in _joined(waiting):
                if isinstance(event, Finished):
                    self.ends[choice] = event
                yield choice, event
                await asyncio.sleep(0)  # whoever takes them may never wait: others have their turn

    def cancel(self) -> None:
        """Ends what has not ended."""
        for choice, handle in enumerate(self._handles):
            if choice not in self.ends:
                handle.cancel()

    @property
    def completion_tokens(self) -> int:
        """Tokens that were written, of the choices that have ended."""
        return sum(end.completion_tokens for end in self.ends.values())


def _joined(events: Iterable[tuple[int, Piece | Finished]]) -> Iterator[tuple[int, Piece | Finished]]:
    """Events that have piled up behind a slow reader: the pieces of a choice become one."""
    pieces: dict[int, Piece] = {}
    for choice, event in events:
        if isinstance(event, Piece):
            before = pieces.get(choice, Piece("", ()))
            pieces[choice] = Piece(before.text + event.text, before.tokens + event.tokens)
            continue
        if (piece := pieces.pop(choice, None)) is not None:
            yield choice, piece
        yield choice, event
    yield from pieces.items()


def ended_badly(end: Finished) -> ApiError | None:
    """The error that an answer ended with; None for one that came to its end."""
    if end.reason in ("stop", "length"):
        return None
    if end.reason == "deadline":
        return ApiError(504, "the answer was not ready in time", code="timeout")
    if end.reason == "cancelled":
        return ApiError(
            503, "the server ends, and has cancelled the answer", code="cancelled", headers=retry_after(5.0)
        )
    if end.reason == "not_finite":
        return ApiError(500, "the model's memory or its weights have overflowed", code="not_finite")
    return ApiError(500, "the model failed; the server's log says why", code="model_error")
