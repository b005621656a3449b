"""JSON bodies, parsed as everything from outside is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from prosg.serving.api.errors import ApiError
from prosg.utils.outside import parse_json

__all__ = ["JsonRoute"]


class _JsonRequest(Request):
    """A request whose JSON is bounded in depth and digits, without NaN and halves of characters."""

    async def json(self) -> Any:
        try:
            return parse_json(await self.body(), "the body")
        except ValueError as error:
            raise ApiError(400, str(error)) from None


class JsonRoute(APIRoute):
    """A route with such a body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json
