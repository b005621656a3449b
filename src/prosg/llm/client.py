"""One request to a chat model, sent again while the network or the server is at fault, and paid from the budget.

What is sent again: 408, 409, 429, 5xx, time-outs, lost connections, replies that break off. Nothing else: a reply that
came whole is recorded, whatever it says, and never asked for again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

from prosg.llm.budget import Budget, BudgetSpentError, Cost
from prosg.llm.config import EndpointConfig
from prosg.utils.store import Log

__all__ = ["Asker", "EndpointError", "GaveUpError", "Reply", "Request", "Shortfall", "most", "need_key"]

T = TypeVar("T")
DEAD_AFTER = 3
"""requests in a row that were given up with no reply in between: then the server is taken to be gone"""
SHORTEST_KEY = 8
NO_TOKENS = ("http ", "no connection")
"""failures that cost no tokens; after the others the server may have counted what was booked"""


class EndpointError(ValueError):
    """The endpoint cannot be used as it is configured."""


class GaveUpError(Exception):
    """A request met nothing but failures; it is asked again when the command is run again."""


class _TransientError(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.what, self.wait = what, wait


@dataclass(frozen=True)
class Request:
    """What is sent, without the parameters that are about transport; `id` is its record's."""

    id: str
    body: Mapping[str, Any]


class Reply(NamedTuple):
    """What came back. finish: "stop", "length" (cut off), ...; "malformed": no chat completion; "error": a 4xx."""

    text: str
    finish: str
    refusal: str
    cost: Cost
    model: str

    def to_dict(self) -> dict[str, Any]:
        said = {"reply": self.text, "finish": self.finish, "refusal": self.refusal}
        return said | self.cost._asdict() | {"model": self.model}


def most(endpoint: EndpointConfig, body: Mapping[str, Any]) -> Cost:
    """The most that a request can cost. A token is at least one byte; 64 more are for the chat template."""
    tokens_in = len(json.dumps(body, ensure_ascii=False).encode()) + 64
    return Cost.of(endpoint, tokens_in, body[endpoint.token_parameter])


def need_key(name: str, endpoint: EndpointConfig) -> None:
    """ValueError where an endpoint's key is not set; `name` is what the configuration calls the endpoint."""
    if endpoint.api_key_env and not os.environ.get(endpoint.api_key_env):
        raise ValueError(
            f"{name}.api_key_env names {endpoint.api_key_env}, which is not set in the environment; "
            "set it, or give '' for a server without keys"
        )


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait; 0 where it does not say."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        told = headers.get("retry-after", "0")
        if told.replace(".", "", 1).isdigit():
            return float(told)
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


@dataclass
class Shortfall:
    """What a stage could not get: requests given up, the reason of the last one, and the cap that stopped it."""

    given_up: int = 0
    reason: str = ""
    cap: str = ""

    def __bool__(self) -> bool:
        return bool(self.given_up or self.cap)


class Asker:
    """A model behind an endpoint."""

    def __init__(self, endpoint: EndpointConfig, budget: Budget) -> None:
        try:
            import openai
            import tenacity  # noqa: F401 - so that its absence shows before the first request
        except ImportError as error:
            raise ValueError(f"asking a model needs the package {error.name}: pip install 'prosg[data]'") from None
        self.endpoint, self.budget = endpoint, budget
        self.key = os.environ.get(endpoint.api_key_env, "") if endpoint.api_key_env else ""
        # The client insists on a key; a server without keys does not look at it.
        self.client = openai.AsyncOpenAI(
            base_url=endpoint.base_url, api_key=self.key or "none", max_retries=0, timeout=endpoint.timeout
        )
        self.answered: set[str] = set()
        self.failures = 0

    async def reply(self, stage: str, request: Request, log: Log) -> dict[str, Any]:
        """Ask, record the reply, and only then settle what it cost; returns the record.

        Raises GaveUpError, BudgetSpentError, or EndpointError where the configuration is wrong.
        """
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

        config = self.endpoint

        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait if isinstance(error, _TransientError) else 0.0
            grown = config.backoff * 2.0 ** (state.attempt_number - 1) * random.uniform(0.5, 1.0)
            return max(asked, min(grown, config.longest_wait))

        attempts = AsyncRetrying(
            stop=stop_after_attempt(config.attempts),
            wait=pause,
            retry=retry_if_exception_type(_TransientError),
            reraise=True,
        )
        try:
            record: dict[str, Any] = await attempts(self._attempt, stage, request, log)
        except _TransientError as error:
            raise GaveUpError(error.what) from None
        self.failures = 0
        return record

    async def _attempt(self, stage: str, request: Request, log: Log) -> dict[str, Any]:
        highest = most(self.endpoint, request.body)
        booking = await self.budget.book(stage, request.id, highest)
        outcome, cost = "cancelled", highest
        try:
            reply = await self._send(request.body, highest)
            if reply.finish == "error" and stage not in self.answered:
                raise EndpointError(f"{self.endpoint.base_url} refuses the first request: {reply.refusal}")
            record = {"id": request.id, **reply.to_dict()}
            log.append(record)
            self.answered.add(stage)
            outcome, cost = "reply", reply.cost
            return record
        except _TransientError as error:
            outcome = error.what
            if outcome.startswith(NO_TOKENS):
                cost = Cost(0, 0, 0.0)
            if error.wait > self.endpoint.longest_wait:
                raise GaveUpError(f"{error.what}, and it asks to wait {error.wait:.0f} s") from None
            raise
        except EndpointError:
            outcome, cost = "refused", Cost(0, 0, 0.0)
            raise
        finally:
            self.budget.settle(booking, outcome, cost)
            await self.budget.tell()

    def _clean(self, text: str) -> str:
        """Servers repeat keys in what they complain about; nothing that is kept or shown may hold one.

        Shorter ones are no secrets but words, as servers without keys are given.
        """
        return text.replace(self.key, "***") if len(self.key) >= SHORTEST_KEY else text

    async def _send(self, body: Mapping[str, Any], highest: Cost) -> Reply:
        import openai

        try:
            async with asyncio.timeout(self.endpoint.timeout):
                read = self._read_stream if self.endpoint.stream else self._read_whole
                return await read(body, highest)
        except (TimeoutError, openai.APITimeoutError):
            raise _TransientError("time-out") from None
        except openai.APIStatusError as error:
            status, told = error.status_code, " ".join(self._clean(error.message).split())[:300]
            if status in (408, 409, 429) or status >= 500:
                raise _TransientError(f"http {status}", _retry_after(error.response.headers)) from None
            if status in (401, 403, 404):
                raise EndpointError(f"{self.endpoint.base_url} refuses: {told}") from None
            return Reply("", "error", f"http {status}: {told}", Cost(0, 0, 0.0), self.endpoint.model)
        except (openai.APIConnectionError, json.JSONDecodeError) as error:
            cause = error.__cause__ or error
            kind = "no connection" if "connect" in type(cause).__name__.lower() else "broken off"
            raise _TransientError(kind) from None
        except openai.APIError as error:  # an error in the middle of a stream
            raise _TransientError(f"broken off: {self._clean(error.message)[:100]}") from None

    async def _read_whole(self, body: Mapping[str, Any], highest: Cost) -> Reply:
        raw = await self.client.chat.completions.with_raw_response.create(**_arguments(body))
        text = raw.http_response.text
        try:
            content = json.loads(text)
            choice = content["choices"][0]
            message = choice["message"]
            said, refusal = message.get("content") or "", message.get("refusal") or ""
            finish = choice.get("finish_reason") or "stop"
            if not (isinstance(said, str) and isinstance(refusal, str) and isinstance(finish, str)):
                raise TypeError("text is expected")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if isinstance(error, ValueError) and "content-length" not in raw.headers:
                raise _TransientError("broken off") from None  # nobody can tell whether there was more to come
            why = "the reply is no chat completion"
            return Reply(self._clean(text), "malformed", why, highest, self.endpoint.model)
        usage = content.get("usage") if isinstance(content.get("usage"), dict) else None
        return self._reply(said, finish, refusal, usage, highest, str(content.get("model")))

    async def _read_stream(self, body: Mapping[str, Any], highest: Cost) -> Reply:
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        stream: Any = await self.client.chat.completions.create(**_arguments(body), **options)
        said, refusal, finish, usage, model = "", "", "", None, self.endpoint.model
        async with stream:
            async for chunk in stream:
                model = chunk.model or model
                if chunk.usage:
                    usage = chunk.usage.model_dump()
                for choice in (chunk.choices or ())[:1]:
                    if choice.delta is not None:
                        said += choice.delta.content or ""
                        refusal += choice.delta.refusal or ""
                    finish = choice.finish_reason or finish
        if not finish:
            raise _TransientError("broken off")
        return self._reply(said, finish, refusal, usage, highest, model)

    def _reply(
        self, said: str, finish: str, refusal: str, usage: Mapping[str, Any] | None, highest: Cost, model: str
    ) -> Reply:
        read, wrote = ((usage or {}).get(key) for key in ("prompt_tokens", "completion_tokens"))
        if isinstance(read, int) and isinstance(wrote, int):
            cost = Cost.of(self.endpoint, read, wrote)
        else:  # a server that does not count: what it wrote has at most as many tokens as bytes
            written = min(len((said + refusal).encode()) + 1, highest.tokens_out)
            cost = Cost.of(self.endpoint, highest.tokens_in, written)
        return Reply(self._clean(said), finish, self._clean(refusal), cost, self._clean(model))

    async def all(
        self, jobs: Sequence[T], work: Callable[[T], Awaitable[None]], tell: Callable[[], object]
    ) -> Shortfall:
        """Work on all jobs, `concurrency` at a time; none is begun any more after one met a cap or a dead endpoint."""
        waiting = iter(jobs)
        self.failures = 0
        short = Shortfall()
        broken: EndpointError | None = None

        async def worker() -> None:
            nonlocal broken
            for job in waiting:
                try:
                    await work(job)
                except GaveUpError as error:
                    self.failures += 1
                    short.given_up += 1
                    short.reason = str(error)
                except BudgetSpentError as error:
                    short.cap = str(error)
                except EndpointError as error:
                    broken = broken or error
                tell()
                if short.cap or broken or self.failures >= DEAD_AFTER:
                    return

        await asyncio.gather(*(worker() for _ in range(min(self.endpoint.concurrency, len(jobs)))))
        if broken:
            raise broken
        if not short.cap and next(waiting, None) is not None:
            raise EndpointError(f"{self.endpoint.base_url} gives no replies ({short.reason}); try again later")
        return short


def _arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    """The client checks what it knows; what it does not know goes into the body as it is."""
    return {"model": body["model"], "messages": body["messages"], "extra_body": dict(body)}
