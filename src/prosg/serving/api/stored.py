"""/v1/prompts: encoded prompts that a key stores, uses by id, downloads and deletes."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from prosg.core.encoded import EncodedPrompt, Memory
from prosg.data.templates import Turn
from prosg.serving.api.edge import UPLOAD
from prosg.serving.api.errors import ApiError, retry_after, server_ends
from prosg.serving.api.json_body import JsonRoute
from prosg.serving.api.keys import Key
from prosg.serving.api.prompts import PromptRecord, TooManyPromptsError, prompt_id
from prosg.serving.api.requests import encoded_ids, wanted_memory
from prosg.serving.api.schemas import PromptBody
from prosg.serving.api.service import Service
from prosg.serving.waiting import EngineStopped, QueueFull
from prosg.utils.values import to_json_number

__all__ = ["prompt_object", "router"]

router = APIRouter(route_class=JsonRoute, tags=["stored prompts"])
BINARY = {"schema": {"type": "string", "format": "binary"}}
SAFETENSORS = "application/octet-stream"


def prompt_object(record: PromptRecord) -> dict[str, Any]:
    """A stored prompt as clients see it."""
    return {
        "id": record.id,
        "object": "prompt",
        "created": record.created,
        "name": record.name,
        "source": record.source,
        "tokens": record.tokens,
        "bytes": record.bytes,
        "memory": record.memory,
        "tau": to_json_number(record.tau),
        "known": record.known,
    }


@router.post("/v1/prompts", status_code=201, summary="Store a prompt", response_model=None)
async def store(request: Request, body: PromptBody) -> Response:
    """Reads a text, or messages, once, and keeps what that left. It is in the storage, whole, when the reply comes."""
    service, key = _of(request)
    if service.draining:
        raise server_ends()
    if body.model not in (None, service.name):
        message = f"there is no model {body.model!r}; this server has {service.name!r}"
        raise ApiError(404, message, code="model_not_found", param="model")
    admission = service.limiter.admit(key.id, key.may_use(service.options.limits), 1)
    tokens = 0
    try:
        found = await asyncio.to_thread(_asked, service, key, body)
        if isinstance(found, PromptRecord):
            record = found
        else:
            encoded = await _encoded(service, key, found.ids, request.state.started + service.options.timeout)
            record = await asyncio.to_thread(found.stored, service, key, encoded)
        tokens = record.tokens
        request.state.prompt = record.id
        return JSONResponse(prompt_object(record), 201)
    finally:
        admission.end(tokens)


@dataclass(frozen=True)
class _Asked:
    """A prompt that is to be stored."""

    identity: str
    name: str
    ids: list[int]
    memory: Memory | None
    tau: float | None
    template: str
    turns: tuple[Turn, ...]

    def stored(self, service: Service, key: Key, encoded: EncodedPrompt) -> PromptRecord:
        """Stores what was read; not for the event loop."""
        known = None if encoded.known is None else bool(encoded.known.all())
        record = PromptRecord(
            id=self.identity,
            created=int(time.time()),
            name=self.name,
            source="messages" if self.turns else "text",
            tokens=len(self.ids),
            bytes=0,
            model=service.prompts.identity,
            memory=self.memory,
            tau=self.tau,
            known=known,
            template=self.template,
            turns=self.turns,
        )
        return _add(service, key, record, encoded)


def _asked(service: Service, key: Key, body: PromptBody) -> _Asked | PromptRecord:
    """What a request wants stored, or its record where it is stored already; not for the event loop."""
    memory, tau = wanted_memory(service, body.memory, body.tau)
    ids, turns = encoded_ids(service, body)
    template = service.template.name if turns else ""
    name = body.name or ""
    content = {"ids": ids, "memory": memory, "tau": tau, "template": template, "turns": [[*turn] for turn in turns]}
    identity = prompt_id(key.id, model=service.prompts.identity, name=name, **content)
    there = service.prompts.whole(key.id, identity)
    return _Asked(identity, name, ids, memory, tau, template, turns) if there is None else there


async def _encoded(service: Service, key: Key, ids: list[int], deadline: float) -> EncodedPrompt:
    """A prompt, with all that any memory may need: what holds it is decided when it is used."""
    memory: Memory = "none" if service.model.synthesizer is None else "update"
    try:
        return await asyncio.wrap_future(service.engine.begin_encoding(ids, memory, owner=key.id, deadline=deadline))
    except EngineStopped:
        raise server_ends() from None
    except QueueFull as full:
        raise ApiError(429, "too many requests wait; try again later", headers=retry_after(full.seconds)) from None
    except RuntimeError:
        if service.draining:
            raise server_ends() from None
        if time.monotonic() >= deadline:
            raise ApiError(504, "the prompt was not read in time", code="timeout") from None
        raise


def _add(service: Service, key: Key, record: PromptRecord, encoded: EncodedPrompt) -> PromptRecord:
    """Stores a prompt, if the key may have one more."""
    try:
        most = key.may_use(service.options.limits).prompts
        return service.prompts.add(
            key.id, record, encoded, most, lambda stored: service.metrics.stored.labels(stored.source).inc()
        )
    except TooManyPromptsError as error:
        raise ApiError(403, str(error), code="too_many_prompts") from None
    except ValueError as error:
        raise ApiError(400, str(error)) from None


@router.post(
    UPLOAD,
    status_code=201,
    summary="Store the file of an encoded prompt",
    response_model=None,
    openapi_extra={"requestBody": {"required": True, "content": {SAFETENSORS: BINARY}}},
)
async def upload(request: Request, name: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Takes a file of `prosg encode`, of this model and of one prompt, as application/octet-stream."""
    service, key = _of(request)
    if unknown := [other for other in request.query_params if other != "name"]:
        raise ApiError(400, f"unknown query parameter {unknown[0][:40]!r}; allowed: name", param=unknown[0][:40])
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != SAFETENSORS:
        raise ApiError(415, f"an encoded prompt is sent as {SAFETENSORS}")
    admission = service.limiter.admit(key.id, key.may_use(service.options.limits), 0)
    try:
        content = await request.body()
        record = await asyncio.to_thread(_uploaded_record, service, key, content, name)
        request.state.prompt = record.id
        return JSONResponse(prompt_object(record), 201)
    finally:
        admission.end(0)


def _uploaded_record(service: Service, key: Key, content: bytes, name: str) -> PromptRecord:
    """Checks and stores a file."""
    try:
        encoded = service.prompts.read_upload(content)
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_prompt_file") from None
    identity = prompt_id(key.id, model=service.fingerprint, name=name, file=hashlib.sha256(content).hexdigest())
    known = None if encoded.known is None else bool(encoded.known.all())
    record = PromptRecord(
        identity, int(time.time()), name, "upload", 0, 0, service.fingerprint, None, None, known, "", ()
    )
    return _add(service, key, record, encoded)


@router.get("/v1/prompts", summary="List the key's prompts")
async def list_prompts(request: Request) -> dict[str, Any]:
    """The newest first."""
    service, key = _of(request)
    records = await asyncio.to_thread(service.prompts.owned_by, key.id)
    return {"object": "list", "data": [prompt_object(record) for record in records]}


@router.get("/v1/prompts/{prompt}", summary="What is known of a prompt")
async def get_prompt(request: Request, prompt: str) -> dict[str, Any]:
    """Without what it says."""
    service, key = _of(request)
    return prompt_object(await _found(service, key, prompt))


@router.get(
    "/v1/prompts/{prompt}/content",
    summary="Download a prompt",
    response_class=FileResponse,
    responses={200: {"content": {SAFETENSORS: BINARY}}},
)
async def download(request: Request, prompt: str) -> Response:
    """The file that `prosg generate --encoded` and an upload take."""
    service, key = _of(request)
    record = await _found(service, key, prompt)
    try:
        content = await asyncio.to_thread(service.prompts.content, key.id, record.id)
    except FileNotFoundError:
        raise _unknown() from None
    disposition = {"Content-Disposition": f'attachment; filename="{record.id}.safetensors"'}
    return Response(content, media_type=SAFETENSORS, headers=disposition)


@router.delete("/v1/prompts/{prompt}", summary="Delete a prompt")
async def delete(request: Request, prompt: str) -> dict[str, Any]:
    """It is gone for requests that come after the reply."""
    service, key = _of(request)
    if not await asyncio.to_thread(service.prompts.delete, key.id, prompt):
        raise _unknown()
    return {"id": prompt, "object": "prompt", "deleted": True}


def _of(request: Request) -> tuple[Service, Key]:
    return request.app.state.service, request.state.key


async def _found(service: Service, key: Key, name: str) -> PromptRecord:
    record = await asyncio.to_thread(service.prompts.find, key.id, name)
    if record is None:
        raise _unknown()
    return record


def _unknown() -> ApiError:
    """The same for a prompt of another key and for none at all."""
    return ApiError(404, "there is no such stored prompt", code="prompt_not_found")
