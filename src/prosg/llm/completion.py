"""One chat completion over HTTP, whole or streamed, with its failures sorted by what can be done about them.

- `TransientError`: 408, 409, 429, 5xx, time-outs, lost connections, truncated replies. Another attempt may succeed.
- `EndpointError`: 401, 403, 404. No request can succeed as the endpoint is configured.
- A reply with finish "error" (any other 4xx) or "malformed": the server's answer to this request.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from prosg.llm.budget import Cost
from prosg.llm.config import EndpointConfig

__all__ = ["ChatCompletions", "ChatReply", "ChatRequest", "EndpointError", "ReplyRecord", "TransientError"]

SHORTEST_KEY = 8
"""Characters from which on a key is taken for a secret; servers without keys are given shorter words."""

ReplyRecord = Mapping[str, Any]
"""A recorded reply: {"id", "reply", "finish", "refusal", "tokens_in", "tokens_out", "money", "model"}."""


class EndpointError(ValueError):
    """The endpoint cannot be used as it is configured."""


class TransientError(Exception):
    """An attempt failed in a way that another may not; `wait`: seconds that the server demands before the next one."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


@dataclass(frozen=True)
class ChatRequest:
    """A request: the id of its record, and the body without parameters that are about transport."""

    id: str
    body: Mapping[str, Any]


class ChatReply(NamedTuple):
    """A server's reply.

    Attributes:
        text: The message's text.
        finish: "stop", "length" (truncated at the limit), ...; "malformed": no chat completion; "error": a 4xx.
        refusal: Why there is no text, if the server says so.
        cost: Tokens and price.
        model: The model, as the server names it.
    """

    text: str
    finish: str
    refusal: str
    cost: Cost
    model: str

    def to_record(self, request_id: str) -> dict[str, Any]:
        """Returns the reply's record (`ReplyRecord`)."""
        record = {"id": request_id, "reply": self.text, "finish": self.finish, "refusal": self.refusal}
        return record | self.cost._asdict() | {"model": self.model}


class ChatCompletions:
    """The chat completions of an endpoint."""

    def __init__(self, endpoint: EndpointConfig) -> None:
        import openai

        self.endpoint = endpoint
        self.key = os.environ.get(endpoint.api_key_env, "") if endpoint.api_key_env else ""
        # The library insists on a key; a server without keys ignores it.
        self.client = openai.AsyncOpenAI(
            base_url=endpoint.base_url, api_key=self.key or "none", max_retries=0, timeout=endpoint.timeout
        )

    async def complete(self, body: Mapping[str, Any], highest: Cost) -> ChatReply:
        """Sends a request once. Its highest cost counts where the server reports none.

        Raises TransientError or EndpointError, as this module's first lines say.
        """
        import openai

        try:
            async with asyncio.timeout(self.endpoint.timeout):
                if self.endpoint.stream:
                    return await self._read_stream(body, highest)
                return await self._read_whole(body, highest)
        except (TimeoutError, openai.APITimeoutError):
            raise TransientError("time-out") from None
        except openai.APIStatusError as error:
            status, message = error.status_code, " ".join(self._without_key(error.message).split())[:300]
            if status in (408, 409, 429) or status >= 500:
                raise TransientError(f"http {status}", _retry_after(error.response.headers)) from None
            if status in (401, 403, 404):
                raise EndpointError(f"{self.endpoint.base_url} refuses: {message}") from None
            return ChatReply("", "error", f"http {status}: {message}", Cost(0, 0, 0.0), self.endpoint.model)
        except (openai.APIConnectionError, json.JSONDecodeError) as error:
            cause = error.__cause__ or error
            kind = "no connection" if "connect" in type(cause).__name__.lower() else "broken off"
            raise TransientError(kind) from None
        except openai.APIError as error:  # an error in the middle of a stream
            raise TransientError(f"broken off: {self._without_key(error.message)[:100]}") from None

    async def close(self) -> None:
        """Closes the connections."""
        await self.client.close()

    async def _read_whole(self, body: Mapping[str, Any], highest: Cost) -> ChatReply:
        response = await self.client.chat.completions.with_raw_response.create(**_arguments(body))
        content_text = response.http_response.text
        try:
            content = json.loads(content_text)
            choice = content["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content") or "", message.get("refusal") or ""
            finish = choice.get("finish_reason") or "stop"
            if not (isinstance(text, str) and isinstance(refusal, str) and isinstance(finish, str)):
                raise TypeError("text is expected")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if isinstance(error, ValueError) and "content-length" not in response.headers:
                raise TransientError("broken off") from None  # nobody can tell whether there was more to come
            why = "the reply is no chat completion"
            return ChatReply(self._without_key(content_text), "malformed", why, highest, self.endpoint.model)
        usage = content.get("usage") if isinstance(content.get("usage"), dict) else None
        return self._reply(text, finish, refusal, usage, highest, str(content.get("model")))

    async def _read_stream(self, body: Mapping[str, Any], highest: Cost) -> ChatReply:
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        stream: Any = await self.client.chat.completions.create(**_arguments(body), **options)
        text, refusal, finish, usage, model = "", "", "", None, self.endpoint.model
        async with stream:
            async for chunk in stream:
                model = chunk.model or model
                if chunk.usage:
                    usage = chunk.usage.model_dump()
                for choice in (chunk.choices or ())[:1]:
                    if choice.delta is not None:
                        text += choice.delta.content or ""
                        refusal += choice.delta.refusal or ""
                    finish = choice.finish_reason or finish
        if not finish:
            raise TransientError("broken off")
        return self._reply(text, finish, refusal, usage, highest, model)

    def _reply(
        self, text: str, finish: str, refusal: str, usage: Mapping[str, Any] | None, highest: Cost, model: str
    ) -> ChatReply:
        tokens_in, tokens_out = ((usage or {}).get(key) for key in ("prompt_tokens", "completion_tokens"))
        if isinstance(tokens_in, int) and isinstance(tokens_out, int):
            cost = Cost.of(self.endpoint, tokens_in, tokens_out)
        else:  # a server that does not count: a text has at most as many tokens as bytes
            written = min(len((text + refusal).encode()) + 1, highest.tokens_out)
            cost = Cost.of(self.endpoint, highest.tokens_in, written)
        return ChatReply(self._without_key(text), finish, self._without_key(refusal), cost, self._without_key(model))

    def _without_key(self, text: str) -> str:
        """Masks the key, which servers repeat in errors, in a text that will be recorded or shown."""
        return text.replace(self.key, "***") if len(self.key) >= SHORTEST_KEY else text


def _arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the library: it checks the parameters that it knows; the others pass through the extra body."""
    return {"model": body["model"], "messages": body["messages"], "extra_body": dict(body)}


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server demands before the next attempt; 0 where it names none."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "0")
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
