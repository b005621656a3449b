"""A request as it travels from the ingress to a replica, and a replica's application called with it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from prosg.serving.api.keys import Key
from prosg.serving.api.prompts import ID

__all__ = ["END", "Call", "answered", "named_prompt"]

END = "prosg.end"
"""Type of the message before a reply's last one, with what the edge counts and logs: `route` and `logged`."""
PATH = re.compile(r"/v1/(?:prompts/|models/[^/]*:)(?P<prompt>[^/]+)(?:/content)?")
ANSWERS = ("/v1/chat/completions", "/v1/completions")


@dataclass(frozen=True)
class Call:
    """A request that was let in.

    Attributes:
        scope: What of its ASGI scope can be sent to another process.
        body: All of its body.
        key: Who sends it.
        request_id: For logs.
        prompt: The stored prompt that it names; "" for none.
    """

    scope: dict[str, Any]
    body: bytes
    key: Key
    request_id: str
    prompt: str

    @classmethod
    def of(cls, scope: Scope, body: bytes) -> Call:
        """Takes a request that has passed the edge."""
        names = ("method", "path", "raw_path", "query_string", "root_path", "headers", "http_version", "scheme")
        sent = {name: scope[name] for name in names if name in scope}
        state = scope["state"]
        return cls(sent, body, state["key"], state["request_id"], named_prompt(scope["path"], body))


def named_prompt(path: str, body: bytes) -> str:
    """The id of the stored prompt that a request is about, by its path or its body; "" for none."""
    found: Any = ""
    if (match := PATH.fullmatch(path)) is not None:
        found = match["prompt"]
    elif path in ANSWERS:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):  # the replica says what is wrong with it
            return ""
        if isinstance(content, dict):
            found = content.get("prompt_id") or str(content.get("model", "")).partition(":")[2]
    return found if isinstance(found, str) and ID.fullmatch(found) else ""


async def answered(app: ASGIApp, call: Call, state: dict[str, Any]) -> AsyncGenerator[Message]:
    """Calls an application, in the event loop that it runs in, and yields what it sends.

    Args:
        app: The application.
        call: What it is called with.
        state: The request's state, in which the application leaves what it knows; filled in before the reply begins.

    Yields:
        ASGI messages, and before the last of them, once the application has ended, the one of type `END`. Where nobody
        wants them any more the application is told that the client has gone.
    """
    state |= {"key": call.key, "request_id": call.request_id, "started": time.monotonic()}
    scope: Scope = call.scope | {"type": "http", "asgi": {"version": "3.0"}, "state": state}
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    given, gone = False, asyncio.Event()

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": call.body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(scope, receive, sent.put)
        finally:
            sent.put_nowait(None)

    task, last = asyncio.ensure_future(run()), None
    try:
        while (message := await sent.get()) is not None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                last = message
            else:
                yield message
        await task
        yield {"type": END, "route": getattr(scope.get("route"), "path", "other"), "logged": state.get("logged", {})}
        if last is not None:
            yield last
    finally:
        gone.set()
        task.cancel()
