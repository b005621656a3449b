"""`prosg rate`: serves the page to one person on this machine, and writes each rating as it is given."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Annotated, Literal

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from prosg.evaluation.ratings.items import VALUES, Item, letter
from prosg.evaluation.ratings.page import Place, done_page, rating_page
from prosg.evaluation.ratings.store import current, finished, write
from prosg.utils.store import record_id

__all__ = ["make_app", "serve"]

HOST = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # what is shown is what is on the disk
}


class Rated(BaseModel):
    """What the page sends. token: the page's; letter: which answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: str
    letter: str
    scale: Literal["fluency", "accuracy", "quality"]
    value: Annotated[int, Field(ge=VALUES[0], le=VALUES[-1])]


def _token(item: Item, annotator: str, seed: int) -> str:
    """What a page's ratings are accepted by: it says whose they are, and what stood behind the letters."""
    shown = [[str(one.run), one.system, one.text] for one in item.candidates]
    return record_id(annotator=annotator, seed=seed, item=item.id, prompt=item.prompt, shown=shown)


def make_app(items: Sequence[Item], annotator: str, seed: int = 0) -> FastAPI:
    """The application. items: as `ordered` for this annotator and seed."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # Pages of other sites may send requests here under a name of theirs.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    tokens = {_token(item, annotator, seed): item for item in items}
    by_item = {item.id: token for token, item in tokens.items()}

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(ValueError)
    async def say(request: Request, error: ValueError) -> Response:
        return JSONResponse({"detail": str(error)}, 500)

    @app.get("/")
    def start() -> Response:
        values = current(items, annotator)
        number = next((place for place, item in enumerate(items, 1) if not finished(item, values)), None)
        return RedirectResponse("/done" if number is None else f"/prompt/{number}", 303)

    @app.get("/done")
    def done() -> Response:
        if _count(items, current(items, annotator)) < len(items):
            return RedirectResponse("/", 303)
        return HTMLResponse(done_page(len(items)))

    @app.get("/prompt/{number}")
    def prompt(number: int) -> Response:
        if not 1 <= number <= len(items):
            raise HTTPException(404, f"there are prompts 1 to {len(items)}")
        item, values = items[number - 1], current(items, annotator)
        place = Place(number, len(items), _count(items, values))
        return HTMLResponse(rating_page(item, place, values, by_item[item.id]))

    @app.post("/rate")
    def rate(rated: Rated) -> dict[str, int]:
        item = tokens.get(rated.token)
        if item is None:
            raise HTTPException(409, "this page is from an earlier start of prosg rate; load it again")
        letters = {letter(place): one for place, one in enumerate(item.candidates)}
        if rated.letter not in letters:
            raise HTTPException(422, f"there is no answer {rated.letter}")
        write(item, letters[rated.letter], annotator, rated.scale, rated.value, shown=rated.letter, seed=seed)
        return {"finished": _count(items, current(items, annotator))}

    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        content = resources.files("prosg.evaluation.ratings").joinpath(name).read_text("utf-8")
        app.add_api_route(f"/{name}", _file(content, kind), methods=["GET"])
    return app


def _file(content: str, kind: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=kind)


def _count(items: Sequence[Item], values: dict[tuple[str, str, str], int]) -> int:
    return sum(finished(item, values) for item in items)


def serve(items: Sequence[Item], annotator: str, *, port: int, seed: int) -> int:
    """Serve until Ctrl-C; 0. ValueError for a port that cannot be had, 0 takes a free one."""
    app = make_app(items, annotator, seed)
    count = _count(items, current(items, annotator))
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listening:
        try:
            listening.bind((HOST, port))
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "allowed: 0 to 65535"
            raise ValueError(f"--port {port} cannot be had ({why}); give another") from None
        address = f"http://{HOST}:{listening.getsockname()[1]}/"
        print(f"{annotator}: {count} of {len(items)} prompts are finished\n{address}    Ctrl-C ends", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn ends in good order, then raises the signal again
            print()
    count = _count(items, current(items, annotator))
    print(f"{annotator}: {count} of {len(items)} prompts are finished; the same command goes on from here")
    return 0
