"""The web application: its routes, and the layers around them."""

from __future__ import annotations

import asyncio
from functools import partial
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from prosg.core.encoded import MEMORIES
from prosg.serving.api import generation, stored
from prosg.serving.api.edge import layers
from prosg.serving.api.errors import ApiError, add_handlers
from prosg.serving.api.keys import Key
from prosg.serving.api.metrics import CONTENT_TYPE
from prosg.serving.api.prompts import PromptRecord
from prosg.serving.api.service import Service

__all__ = ["inner_app", "make_app"]

DESCRIPTION = (
    "Many prompts, one recurrent model, each with its own memory. Errors are "
    '{"error": {"message", "type", "param", "code"}}.'
)
bearer = HTTPBearer(auto_error=False, description="an API key; needed where the server was started with keys")
router = APIRouter()
TEXT = {"type": "string"}
TEXT_OR_NULL = {"anyOf": [TEXT, {"type": "null"}]}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": TEXT, "type": TEXT, "param": TEXT_OR_NULL, "code": TEXT_OR_NULL},
        }
    },
}
"""Of errors, for the OpenAPI description."""
MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


async def _described(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
    """Has the OpenAPI description name the keys, which `Edge` has checked."""


def make_app(service: Service) -> FastAPI:
    """Creates the application of a service whose engine runs."""
    app = inner_app(service)
    for layer, options in layers(service):
        app.add_middleware(layer, **options)
    return app


def inner_app(service: Service) -> FastAPI:
    """The application without its edge: whoever calls it has set `key`, `request_id` and `started` of the state."""
    app = FastAPI(
        title=f"prosg serve: {service.name}",
        description=DESCRIPTION,
        version="1",
        docs_url=None,  # these two load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    for routes in (generation.router, stored.router, router):
        app.include_router(routes, dependencies=[Depends(_described)])
    _add_pages(app)
    add_handlers(app)
    app.openapi = partial(_description, app)  # type: ignore[method-assign]
    return app


def _description(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI description, whose errors are those of this server instead of FastAPI's."""
    if app.openapi_schema is None:
        described = FastAPI.openapi(app)
        schemas = described["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Error"] = ERROR
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        for route in (route for methods in described["paths"].values() for route in methods.values()):
            route["responses"].pop("422", None)
            for status in ("4XX", "5XX"):
                route["responses"].setdefault(status, {"description": "An error", "content": content})
    assert app.openapi_schema is not None
    return app.openapi_schema


@router.get("/v1/models", tags=["models"], summary="List the model, and the key's stored prompts under it")
async def models(request: Request) -> dict[str, Any]:
    """NAME:PROMPT-ID is the model under a stored prompt."""
    service: Service = request.app.state.service
    key: Key = request.state.key
    records = await asyncio.to_thread(service.prompts.owned_by, key.id)
    inner = [_model(service, f"{service.name}:{record.id}", record) for record in records]
    return {"object": "list", "data": [_model(service, service.name, None), *inner]}


@router.get("/v1/models/{model:path}", tags=["models"], summary="The model, or the model under a stored prompt")
async def model(request: Request, model: str) -> dict[str, Any]:
    """As in the list."""
    service: Service = request.app.state.service
    key: Key = request.state.key
    name, colon, prompt = model.partition(":")
    record = await asyncio.to_thread(service.prompts.find, key.id, prompt) if colon else None
    if name != service.name or (colon and record is None):
        raise ApiError(404, "there is no such model", code="model_not_found", param="model")
    return _model(service, model, record)


def _model(service: Service, name: str, record: PromptRecord | None) -> dict[str, Any]:
    allowed = [memory for memory in MEMORIES if _can_have(service, memory)]
    return {
        "id": name,
        "object": "model",
        "created": service.started if record is None else record.created,
        "owned_by": "prosg",
        "memory": (record and record.memory) or service.memory,
        "memories": allowed,
    }


def _can_have(service: Service, memory: Any) -> bool:
    try:
        service.model.check_memory(memory)
    except ValueError:
        return False
    return True


@router.get("/health", tags=["operation"], summary="Whether the server lives")
async def health() -> dict[str, str]:
    """Says so as long as it can."""
    return {"status": "ok"}


@router.get("/ready", tags=["operation"], summary="Whether the server takes requests")
async def ready(request: Request) -> Response:
    """503 once it is about to end."""
    draining = request.app.state.service.draining
    return JSONResponse({"status": "draining" if draining else "ready"}, 503 if draining else 200)


@router.get("/metrics", tags=["operation"], summary="Counters for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _add_pages(app: FastAPI) -> None:
    """Adds the playground at /, the API's reference, and their files."""
    folder = resources.files("prosg.serving.api").joinpath("playground")
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    def page(name: str) -> Response:
        suffix = name[name.rfind(".") :]
        return Response(files[name], media_type=MEDIA[suffix], headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        return page("index.html")

    @app.get("/reference", include_in_schema=False)
    async def reference() -> Response:
        return page("reference.html")

    @app.get("/playground/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "there is no such file")
        return page(name)
