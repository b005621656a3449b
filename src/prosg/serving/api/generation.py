"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from prosg.core.encoded import EncodedPrompt
from prosg.serving.api.errors import ApiError, error_body, server_ends
from prosg.serving.api.json_body import JsonRoute
from prosg.serving.api.keys import Key
from prosg.serving.api.limits import Admission
from prosg.serving.api.replies import ChatReply, CompletionReply, Reply
from prosg.serving.api.requests import Job, chat_job, completion_job
from prosg.serving.api.running import Running, ended_badly
from prosg.serving.api.schemas import ChatBody, CompletionBody, GenerationBody
from prosg.serving.api.service import Service
from prosg.serving.request import Chosen, Finished

__all__ = ["router"]

router = APIRouter(route_class=JsonRoute, tags=["answers"])
log = logging.getLogger("prosg.serve")
SENDING_SECONDS = 5.0
"""That a reply may take to be sent, after the last moment at which it may be written."""


@router.post("/v1/chat/completions", summary="Answer a conversation", response_model=None)
async def chat(request: Request, body: ChatBody) -> Response:
    """As OpenAI's; the system turn, or else the user's first one, is what memory holds."""
    service: Service = request.app.state.service
    reply = ChatReply(body.model, service.fingerprint, service.tokenizer, bool(body.logprobs), _wants_usage(body))
    return await _answer(request, service, body, 1, chat_job, reply)


@router.post("/v1/completions", summary="Go on with a text", response_model=None)
async def complete(request: Request, body: CompletionBody) -> Response:
    """As OpenAI's; the prompt is what memory holds."""
    service: Service = request.app.state.service
    several = isinstance(body.prompt, list) and not isinstance(body.prompt[0], int)
    reply = CompletionReply(
        body.model, service.fingerprint, service.tokenizer, body.logprobs is not None, _wants_usage(body)
    )
    return await _answer(request, service, body, len(body.prompt) if several else 1, completion_job, reply)


def _wants_usage(body: GenerationBody) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_usage)


async def _answer(
    request: Request,
    service: Service,
    body: Any,
    prompts: int,
    make_job: Callable[[Service, Any, str, float], Job],
    reply: Reply,
) -> Response:
    """Answers a request, streamed or whole.

    Raises:
        ApiError: for what cannot be answered, now or ever.
    """
    if service.draining:
        raise server_ends()
    key: Key = request.state.key
    admission = service.limiter.admit(key.id, key.may_use(service.options.limits), prompts * (body.n or 1))
    try:
        deadline = request.state.started + service.options.timeout
        job = await asyncio.to_thread(make_job, service, body, key.id, deadline)
        answers = _Answers(request, service, job, admission, reply, Running(service, job))
    except BaseException:
        admission.end(0)
        raise
    if job.stored is not None:
        request.state.prompt = job.stored.record.id
    if service.options.log_prompts:
        log.info("%s asks %s", request.state.request_id, json.dumps(body.model_dump(exclude_none=True)))
    if body.stream:
        return _AnswerStream(answers)
    return await answers.whole()


class _Answers:
    """The answers to one request, from the engine's events to what is sent."""

    def __init__(
        self, request: Request, service: Service, job: Job, admission: Admission, reply: Reply, running: Running
    ) -> None:
        self.request, self.service, self.job, self.reply, self.running = request, service, job, reply, running
        self._admission: Admission | None = admission
        self._texts = ["" for _ in job.requests]
        self._tokens: list[list[Chosen]] = [[] for _ in job.requests]
        self._written = 0
        self._trims = isinstance(reply, ChatReply) and service.template.reshapes

    @property
    def last_moment(self) -> float:
        """Of the event loop's clock, by which a reply has been sent, or is given up."""
        left = self.request.state.started + self.service.options.timeout - time.monotonic()
        return float(asyncio.get_running_loop().time() + left + SENDING_SECONDS)

    async def pieces(self) -> AsyncIterator[tuple[int, str, tuple[Chosen, ...]]]:
        """Yields (choice, text, tokens).

        Raises:
            ApiError: where an answer does not come to its end.
        """
        async for choice, event in self.running.events():
            if isinstance(event, Finished):
                if (error := ended_badly(event)) is not None:
                    if event.error:
                        log.error("%s: %s", self.request.state.request_id, event.error)
                    raise error
                continue
            text = event.text
            if self._trims and not self._texts[choice]:  # the space between the template's cue and the answer
                text = text.removeprefix(" ")
            self._texts[choice] += event.text
            self._written += len(event.tokens)
            # What a stop string cut off is not in the answer, and neither are its log-probabilities.
            tokens = tuple(token for token in event.tokens if token.place < len(self._texts[choice]))
            self._tokens[choice] += tokens
            yield choice, text, tokens

    async def stream(self) -> AsyncIterator[str]:
        """Yields server-sent events."""
        reply = self.reply
        try:
            for choice in range(len(self.job.requests)):
                if (opening := reply.opening(choice)) is not None:
                    yield event_text(opening)
            ended: set[int] = set()
            async for choice, text, tokens in self.pieces():
                if text or (tokens and self.job.requests[choice].logprobs is not None):
                    yield event_text(reply.piece(choice, text, tokens))
                for other in self.running.ends.keys() - ended:
                    ended.add(other)
                    yield event_text(reply.end(other, self.running.ends[other].reason))
            for other in sorted(self.running.ends.keys() - ended):
                yield event_text(reply.end(other, self.running.ends[other].reason))
            if reply.include_usage:
                yield event_text(reply.usage(self._usage()))
            yield "data: [DONE]\n\n"
        except ApiError as error:  # too late for a status
            yield event_text(error_body(error))

    async def whole(self) -> Response:
        """The reply that is not streamed; nothing more is written once the client has gone."""
        writing = asyncio.ensure_future(self._collect())
        leaving = asyncio.ensure_future(_disconnected(self.request))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                return Response(status_code=499)
            await writing
        finally:
            writing.cancel()
            leaving.cancel()
            self.close()
        texts = [text.removeprefix(" ") for text in self._texts] if self._trims else self._texts
        reasons = [self.running.ends[choice].reason for choice in range(len(texts))]
        return await asyncio.to_thread(  # with log-probabilities it may be megabytes
            lambda: JSONResponse(self.reply.whole(texts, self._tokens, reasons) | self._usage())
        )

    async def _collect(self) -> None:
        async for _ in self.pieces():
            pass

    def _usage(self) -> dict[str, Any]:
        """What was read and written, and how far the first answer's end is from its prompt's."""
        job, ends = self.job, self.running.ends
        stored = 0 if job.stored is None else job.stored.record.tokens
        prompt, written = job.prompt_tokens, self.running.completion_tokens
        firsts = range(0, len(job.requests), job.samples)
        cached = sum(stored + ends[choice].cached_tokens for choice in firsts if choice in ends)
        first = stored + len(job.requests[0].ids) - job.held_tokens + ends[0].completion_tokens
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": min(cached, prompt)},
        }
        memory = job.memory or _holds(job.requests[0].encoded)
        return {"usage": usage, "prosg": {"memory": memory, "held_tokens": job.held_tokens, "distance": first}}

    def close(self) -> None:
        """Ends what still runs, and settles what was used. May be called twice."""
        self.running.cancel()
        if self._admission is None:
            return
        read = sum(len(request.ids) for request in self.job.requests[:: self.job.samples])
        self._admission.end(read + self._written)
        self._admission = None
        self.request.state.logged = {"read": read, "written": self._written}
        if self.service.options.log_prompts:
            log.info("%s answers %s", self.request.state.request_id, json.dumps(self._texts))


class _AnswerStream(StreamingResponse):
    """Server-sent events that end the answers, however they end themselves."""

    def __init__(self, answers: _Answers) -> None:
        super().__init__(answers.stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # A client that reads nothing holds its rows and its connection no longer than an answer may take.
            async with asyncio.timeout_at(self._answers.last_moment):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            self._answers.close()


def event_text(content: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'), allow_nan=False)}\n\n"


async def _disconnected(request: Request) -> None:
    """Waits until the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _holds(encoded: EncodedPrompt | None) -> str:
    """What an encoded prompt is held by as it is."""
    if encoded is None:
        return "none"
    anchor, update = encoded.anchor is not None, encoded.update is not None
    return "both" if anchor and update else "anchor" if anchor else "update" if update else "none"
