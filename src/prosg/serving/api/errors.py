"""Errors as OpenAI's clients know them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import Request

from prosg.utils.spelling import meant
from prosg.utils.values import shortened

__all__ = ["ApiError", "add_handlers", "error_body", "error_response", "retry_after", "server_ends"]

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""By status; `invalid_request_error` for the others below 500, `server_error` from there on."""


class ApiError(HTTPException):
    """A request that is not answered."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Takes what the client is told.

        Args:
            status: HTTP status.
            message: What was wrong, and what is allowed.
            param: Field of the request that it is about.
            code: A word for programs.
            headers: Of the reply.
        """
        super().__init__(status, message, dict(headers or {}))
        self.param, self.code = param, code


def retry_after(seconds: float) -> dict[str, str]:
    """Header that says when to ask again."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def server_ends() -> ApiError:
    """What is said once the server is about to end."""
    return ApiError(503, "the server ends; ask again", headers=retry_after(5.0) | {"Connection": "close"})


def error_body(error: HTTPException) -> dict[str, Any]:
    """The JSON value of an error."""
    kind = TYPES.get(error.status_code, "server_error" if error.status_code >= 500 else "invalid_request_error")
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    return {"error": {"message": str(error.detail), "type": kind, "param": param, "code": code}}


def error_response(error: HTTPException) -> Response:
    """The reply to a request that is not answered."""
    return JSONResponse(error_body(error), error.status_code, error.headers)


def add_handlers(app: FastAPI) -> None:
    """Gives all errors of an application OpenAI's form."""

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_fields(request: Request, error: RequestValidationError) -> Response:
        return error_response(_of_fields(error))


def _of_fields(error: RequestValidationError) -> ApiError:
    """What is said of the first field that is wrong. Its value is not repeated: it may be a prompt."""
    errors = error.errors()
    # Of a value that fits none of several types an error of the type that it has says most, else the deepest.
    alike = (one for one in errors if one["loc"][:2] == errors[0]["loc"][:2])
    first = max(alike, key=lambda one: (not one["type"].endswith("_type"), len(one["loc"])))
    place = [str(part) for part in first["loc"]]
    source, names = place[0], _field_names(place[1:])
    param = ".".join(names) or None
    if source == "body" and not names and first["type"] != "value_error":
        return ApiError(400, "the body must be a JSON object, sent as application/json")
    if first["type"] == "extra_forbidden":
        known = first.get("ctx", {}).get("known", ())
        return ApiError(400, f"unknown field {shortened(names[-1])!r}{meant(names[-1], known)}", param=param)
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing", param=param, code="missing_required_parameter")
    if first["type"] == "too_long" and not first["ctx"]["max_length"]:
        return ApiError(400, f"{param}: this server cannot do that; leave it out, or empty", param=param)
    what = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{param}: {what[:1].lower()}{what[1:]}" if param else what, param=param)


def _field_names(place: list[str]) -> list[str]:
    """The names and numbers of a field's place; a union adds the names of its types, which are no fields."""
    kinds = ("str", "int", "float", "bool", "list[", "function-", "tagged-", "constrained-", "TextPart", "literal[")
    return [shortened(name) for name in place if not name.startswith(kinds)]
