"""The outermost layer of the server: who may come in, how much they may send, and what is logged of it."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prosg.serving.api.errors import ApiError, error_response
from prosg.serving.api.keys import LOCAL, Key, KeyRing
from prosg.serving.api.metrics import HttpMetrics
from prosg.serving.api.options import ApiOptions, is_loopback
from prosg.utils.values import shortened

__all__ = ["UPLOAD", "Edge", "Guarded", "layers"]

UPLOAD = "/v1/prompts/upload"
PUBLIC = ("/", "/health", "/ready", "/openapi.json", "/reference")
PAGES = "/playground/"
"""Where the playground's files are, which hold no secret."""
SAFE = ("GET", "HEAD", "OPTIONS")
REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
log = logging.getLogger("prosg.serve")


@runtime_checkable
class Guarded(Protocol):
    """What the edge needs of a server."""

    @property
    def options(self) -> ApiOptions:
        """What is accepted."""

    @property
    def keys(self) -> KeyRing | None:
        """The keys; None where none are needed."""

    @property
    def metrics(self) -> HttpMetrics:
        """Where requests are counted."""


def layers(service: Guarded) -> list[tuple[Callable[..., ASGIApp], dict[str, Any]]]:
    """The layers around an application, the inner one first, and their options."""
    found: list[tuple[Callable[..., ASGIApp], dict[str, Any]]] = [(Edge, {"service": service})]
    if service.options.allow_origin:
        allowed = {
            "allow_origins": [*service.options.allow_origin],
            "allow_methods": ["GET", "POST", "DELETE"],
            "allow_headers": ["*"],  # OpenAI's own client for JavaScript sends a dozen of its own
            "expose_headers": ["x-request-id", "retry-after"],
        }
        found.append((CORSMiddleware, allowed))
    return found


class Edge:
    """ASGI middleware: request ids, hosts, keys, bounded bodies, errors that nobody expected, the log, HTTP metrics.

    All of it comes before a byte of the body is read. What came in is in the scope's state: `key`, `request_id` and
    `started`. What the application leaves there goes into the log, `logged`, and, where another process has found it,
    `route`.
    """

    def __init__(self, app: ASGIApp, service: Guarded) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, started = Headers(scope=scope), time.monotonic()
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state |= {"request_id": request_id, "started": started, "key": LOCAL}
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["X-Request-Id"] = request_id
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
            await send(message)

        try:
            if (refusal := self._refusal(scope, headers)) is not None:
                await error_response(refusal)(scope, receive, send_on)
            else:
                await self.app(scope, self._bounded(scope, receive), send_on)
        except ClientDisconnect:
            status = status or 499
        except Exception:
            log.exception("request %s failed", request_id)
            if not status:
                failed = ApiError(500, f"the server failed; its log says why (request {request_id})")
                await error_response(failed)(scope, receive, send_on)
        finally:
            self._report(scope, status or 499, time.monotonic() - started)

    def _refusal(self, scope: Scope, headers: Headers) -> ApiError | None:
        """Why a request is not let in; None if it is."""
        options, path = self.service.options, scope["path"]
        host = headers.get("host", "")
        # Against DNS rebinding: pages of other sites may reach a local port under a host name of theirs.
        name = _hostname(host)
        if self.service.keys is None and is_loopback(options.host) and not is_loopback(name):
            return ApiError(421, "the Host header names another machine; this server answers to localhost")
        if self.service.keys is None:
            origin = headers.get("origin")
            known = origin is None or _netloc(origin) == host or origin in options.allow_origin
            return None if known or scope["method"] in SAFE else ApiError(403, "pages of other sites may not do that")
        if path in PUBLIC or path.startswith(PAGES):
            return None
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        key = self.service.keys.find(secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            message = "send an API key of this server: Authorization: Bearer prosg-..."
            return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        scope["state"]["key"] = key
        return None

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Receives no more of a body than is allowed, and not for longer."""
        options = self.service.options
        most = options.max_upload_bytes if scope["path"] == UPLOAD else options.max_body_bytes
        until = time.monotonic() + options.body_timeout
        read, whole = 0, False

        async def receive_on() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    message = await receive()
            except TimeoutError:
                message_text = f"the body took more than {options.body_timeout:g} seconds to arrive"
                raise ApiError(408, message_text, headers={"Connection": "close"}) from None
            read += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if read > most:
                raise ApiError(413, f"the body has more than {most} bytes", headers={"Connection": "close"})
            return message

        return receive_on

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        """Counts and logs a request; neither its path's ids nor anything that was said is a label."""
        metrics, state = self.service.metrics, scope["state"]
        route = state.get("route") or getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in (*SAFE, "POST", "DELETE") else "other"
        metrics.requests.labels(route, method, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        key: Key = state["key"]
        said = " ".join(f"{name}={value}" for name, value in state.get("logged", {}).items())
        path = shortened(ascii(scope["path"])[1:-1])
        log.info("%s %s %s %d %.3fs key=%s %s", state["request_id"], method, path, status, seconds, key.name, said)


def _hostname(host: str) -> str:
    """The name in a Host header; "" for one that cannot be taken apart."""
    if not re.fullmatch(r"(?:\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::\d{1,5})?", host, re.ASCII):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    """The host and port in an Origin header; None for one that cannot be taken apart."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
