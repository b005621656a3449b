"""The ingress' application: takes a request in whole, has a replica answer it, and passes the reply on.

A request whose replica is lost is sent again, as long as nothing of a reply has been passed on: a stored prompt's id
follows from its content, so that a request which stores one can be repeated, too. Of a stream that has begun nobody can
take back what was sent: it ends with an error event, and the client asks again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from prosg.serving.api.errors import ApiError, error_body, error_response, retry_after
from prosg.serving.api.generation import event_text
from prosg.serving.api.metrics import CONTENT_TYPE
from prosg.serving.ray.calls import END, Call

__all__ = ["LostReplicaError", "Relay"]

PAUSE = 0.2
"""Seconds before a request is sent again; doubled each time, up to a second."""
log = logging.getLogger("prosg.serve")


class LostReplicaError(Exception):
    """The replica that answered is no more, or cannot be reached."""


class Relay:
    """ASGI application without state of its own; `Edge` stands before it."""

    def __init__(
        self,
        answer: Callable[[Call], AsyncGenerator[Message]],
        metrics: Callable[[], Awaitable[bytes]],
        timeout: float,
    ) -> None:
        """Sets up.

        Args:
            answer: Has a replica answer; raises `LostReplicaError`.
            metrics: Collects the metrics of all.
            timeout: Seconds in which a reply has to begin.
        """
        self._answer, self._metrics, self._timeout = answer, metrics, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"scope {scope['type']} is not served")
        try:
            if scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
                scope["state"]["route"] = scope["path"]
                reply = Response(await self._metrics(), headers={"Content-Type": CONTENT_TYPE})
                await reply(scope, receive, send)
                return
            call = Call.of(scope, await _whole_body(receive))
            await self._pass_on(call, scope, receive, send)
        except ApiError as error:
            await error_response(error)(scope, receive, send)

    async def _pass_on(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        """Has the call answered, until it is, or the client has gone."""
        passing = asyncio.ensure_future(self._retried(call, scope, send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not passing.done():
                raise ClientDisconnect
            await passing
        finally:
            passing.cancel()
            leaving.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)

    async def _retried(self, call: Call, scope: Scope, send: Send) -> None:
        """Sends a call to replicas until one has answered it.

        Raises:
            ApiError: 503 where no reply has begun in time.
        """
        until, pause = time.monotonic() + self._timeout, PAUSE
        while True:
            reply = _Reply(scope, send)
            try:
                async with aclosing(_begun_by(self._answer(call), until)) as messages:
                    async for message in messages:
                        await reply.take(message)
                return
            except LostReplicaError as error:
                log.warning("%s lost its replica: %s", call.request_id, error)
                if reply.has_begun:
                    await reply.break_off()
                    return
            except TimeoutError:
                pass
            if time.monotonic() + pause >= until:
                raise ApiError(503, "no replica has answered in time; ask again", headers=retry_after(5.0))
            await asyncio.sleep(pause)
            pause = min(1.0, 2 * pause)


class _Reply:
    """What is passed on. A reply begins with its first part: until then another replica may answer instead."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._state, self._send = scope["state"], send
        self._start: Message | None = None
        self.has_begun = False

    async def take(self, message: Message) -> None:
        """Takes the next message of a replica."""
        if message["type"] == END:
            self._state |= {name: message[name] for name in ("route", "logged")}
        elif message["type"] == "http.response.start":
            self._start = message
        else:
            if not self.has_begun:
                assert self._start is not None
                self.has_begun = True
                await self._send(self._start)
            await self._send(message)

    async def break_off(self) -> None:
        """Ends a reply that cannot go on: a stream by an error, another by its connection's end.

        Raises:
            ConnectionError: for a reply that is no stream.
        """
        assert self._start is not None
        headers = {bytes(name).lower(): bytes(value) for name, value in self._start["headers"]}
        if not headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            raise ConnectionError("the replica was lost in the middle of its reply")
        lost = ApiError(503, "the replica that wrote the answer was lost; ask again", code="replica_lost")
        await self._send(
            {"type": "http.response.body", "body": event_text(error_body(lost)).encode(), "more_body": False}
        )


async def _begun_by(messages: AsyncGenerator[Message], until: float) -> AsyncGenerator[Message]:
    """Passes messages on. TimeoutError where the first has not come by then."""
    async with aclosing(messages):
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            first = await anext(messages)
        yield first
        async for message in messages:
            yield message


async def _whole_body(receive: Receive) -> bytes:
    """Reads a body, which the edge bounds."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Receive, send: Send) -> None:
    """There is nothing to be done at the beginning and at the end."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
