"""`prosg rate`: serves the rating pages to one annotator on this machine and records every rating at once."""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Annotated, Literal

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prosg.evaluation.ratings.items import VALUES, RatingItem, answer_letter
from prosg.evaluation.ratings.page import PagePosition, done_page, rating_page
from prosg.evaluation.ratings.store import RatingKey, append_rating, current_ratings, is_finished
from prosg.utils.outside import parse_json, plain_reason
from prosg.utils.store import record_id

__all__ = ["UNUSABLE_FILE", "make_app", "serve"]

HOST = "127.0.0.1"
MOST_BYTES = 4096
"""Length of a rating's body; one has about a hundred bytes."""
UNUSABLE_FILE = "the file of ratings cannot be read or written; the terminal in which prosg rate runs says why"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # a page shows the ratings on disk, also after going back in the browser
}


class SubmittedRating(BaseModel):
    """Body of POST /rate: the token of the page, the letter of the answer, scale and value."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: str
    letter: str
    scale: Literal["fluency", "accuracy", "quality"]
    value: Annotated[int, Field(ge=VALUES[0], le=VALUES[-1])]


async def submitted_rating(request: Request) -> SubmittedRating:
    """Reads the body of a rating, no more of it than a rating has.

    Raises:
        HTTPException: 415 for another type than JSON (a page of another site can send forms, not JSON), 413 for a body
            that is too long, 422 for what is no rating.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "a rating is sent as application/json")
    body = b""
    async for part in request.stream():
        body += part[: MOST_BYTES + 1]
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"a rating has at most {MOST_BYTES} bytes", {"Connection": "close"})
    try:
        return SubmittedRating.model_validate(parse_json(body, "the rating"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise HTTPException(422, f"{'.'.join(map(str, first['loc'])) or 'the rating'}: {first['msg']}") from None
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


def _token(item: RatingItem, annotator: str, seed: int) -> str:
    """A hash of the annotator and of what stands behind the letters, by which a page's ratings are accepted."""
    shown = [[str(candidate.run), candidate.system, candidate.text] for candidate in item.candidates]
    return record_id(annotator=annotator, seed=seed, item=item.id, prompt=item.prompt, shown=shown)


def make_app(items: Sequence[RatingItem], annotator: str, seed: int = 0) -> FastAPI:
    """Creates the web application.

    Args:
        items: The result of `items_for_annotator` for this annotator and seed.
        annotator: Whose ratings are recorded.
        seed: Recorded with each rating.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Against DNS rebinding: pages of other sites may reach this port under a host name of theirs.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    items_by_token = {_token(item, annotator, seed): item for item in items}
    tokens = {item.id: token for token, item in items_by_token.items()}

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(OSError)
    @app.exception_handler(ValueError)
    async def report_error(request: Request, error: Exception) -> Response:
        # Not on the page: of several runs, the one whose file fails is that of the answer which was just rated.
        print(f"error: {plain_reason(error)}", file=sys.stderr, flush=True)
        return JSONResponse({"detail": UNUSABLE_FILE}, 500)

    @app.get("/")
    def start() -> Response:
        values = current_ratings(items, annotator)
        number = next((number for number, item in enumerate(items, 1) if not is_finished(item, values)), None)
        return RedirectResponse("/done" if number is None else f"/prompt/{number}", 303)

    @app.get("/done")
    def done() -> Response:
        if _count_finished(items, current_ratings(items, annotator)) < len(items):
            return RedirectResponse("/", 303)
        return HTMLResponse(done_page(len(items)))

    @app.get("/prompt/{number}")
    def prompt(number: int) -> Response:
        if not 1 <= number <= len(items):
            raise HTTPException(404, f"there are prompts 1 to {len(items)}")
        item, values = items[number - 1], current_ratings(items, annotator)
        position = PagePosition(number, len(items), _count_finished(items, values))
        return HTMLResponse(rating_page(item, position, values, tokens[item.id]))

    @app.post("/rate")
    def rate(rating: Annotated[SubmittedRating, Depends(submitted_rating)]) -> dict[str, int]:
        item = items_by_token.get(rating.token)
        if item is None:
            raise HTTPException(409, "this page is from an earlier start of prosg rate; load it again")
        candidates = {answer_letter(index): candidate for index, candidate in enumerate(item.candidates)}
        if rating.letter not in candidates:
            raise HTTPException(422, f"there is no answer {rating.letter}")
        candidate = candidates[rating.letter]
        append_rating(item, candidate, annotator, rating.scale, rating.value, shown=rating.letter, seed=seed)
        return {"finished": _count_finished(items, current_ratings(items, annotator))}

    for name, media_type in (("page.css", "text/css"), ("page.js", "text/javascript")):
        content = resources.files("prosg.evaluation.ratings").joinpath(name).read_text("utf-8")
        app.add_api_route(f"/{name}", _static_file(content, media_type), methods=["GET"])
    return app


def _static_file(content: str, media_type: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=media_type)


def _count_finished(items: Sequence[RatingItem], values: Mapping[RatingKey, int]) -> int:
    return sum(is_finished(item, values) for item in items)


def serve(items: Sequence[RatingItem], annotator: str, *, port: int, seed: int) -> int:
    """Serves the rating pages on 127.0.0.1 until Ctrl-C.

    Args:
        items: The result of `items_for_annotator` for this annotator and seed.
        annotator: Who rates.
        port: TCP port; 0 takes a free one.
        seed: Seed of the annotator's order.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: For a port that cannot be bound.
    """
    app = make_app(items, annotator, seed)
    count = _count_finished(items, current_ratings(items, annotator))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listener:
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "allowed: 0 to 65535"
            raise ValueError(f"--port {port} cannot be had ({reason}); give another") from None
        address = f"http://{HOST}:{listener.getsockname()[1]}/"
        print(f"{annotator}: {count} of {len(items)} prompts are finished\n{address}    Ctrl-C ends", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn shuts down properly, then raises the signal again
            print()
    count = _count_finished(items, current_ratings(items, annotator))
    print(f"{annotator}: {count} of {len(items)} prompts are finished; the same command goes on from here")
    return 0
