"""One chat completion over HTTP, whole or streamed, with its failures sorted by what can be done about them.

- A reply with finish "error" (400, 413, 414, 422, 431, 451, a moderation's 403): the server's answer to this request.
- `EndpointError`: redirects (they would send prompts, and a request that is not counted, to a place that nobody named),
  401 to 405, 407, 410, and an account that is used up. No request can succeed as the endpoint is configured.
- `TransientError`: any other 4xx, such as 429, 5xx, time-outs, lost connections, truncated replies, and what is no chat
  completion at all. Another attempt may succeed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from prosg.llm.budget import Cost
from prosg.llm.config import EndpointConfig, endpoint_key
from prosg.llm.failures import first_cause, is_moderated, is_unpaid, retry_after
from prosg.llm.masking import Masking
from prosg.llm.message import (
    CutOffError,
    Message,
    NotACompletionError,
    described,
    read_message,
    read_stream,
    stream_ended,
)

__all__ = [
    "BROKEN_OFF",
    "NO_COMPLETION",
    "NO_CONNECTION",
    "ChatCompletions",
    "ChatReply",
    "ChatRequest",
    "EndpointError",
    "ReplyRecord",
    "TransientError",
]

NO_CONNECTION, BROKEN_OFF, NO_COMPLETION = "no connection", "broken off", "no chat completion"
"""Reasons of failed attempts, beside "time-out" and "http STATUS"."""
REFUSED = (400, 413, 414, 422, 431, 451)
"""Statuses that are about one request: it would be refused again."""
CLOSED = (401, 402, 403, 404, 405, 407, 410)
"""Statuses that are about all requests to the endpoint, until somebody does something."""
CONNECTING = 5.0
"""Seconds in which a server has to take up a connection."""
LONGEST_BODY = 16 * 2**20
"""Bytes of a reply that are read; no model writes as much."""

ReplyRecord = Mapping[str, Any]
"""A recorded reply: {"id", "reply", "finish", "refusal", "tokens_in", "tokens_out", "money", "model"}, and "reasoning"
where the model wrote some."""


class EndpointError(ValueError):
    """The endpoint cannot be used as it is configured."""


class TransientError(Exception):
    """An attempt failed in a way that another may not.

    Attributes:
        reason: What happened, in a few words that can be counted.
        wait: Seconds that the server demands before the next attempt.
        detail: What is known about it, in one line; "" if nothing.
    """

    def __init__(self, reason: str, wait: float = 0.0, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.wait, self.detail = reason, wait, detail


@dataclass(frozen=True)
class ChatRequest:
    """A request: the id of its record, and the body without parameters that are about transport."""

    id: str
    body: Mapping[str, Any]


class ChatReply(NamedTuple):
    """A server's reply.

    Attributes:
        text: The message's text, without reasoning.
        finish: "stop", "length" (truncated at the limit), ...; "error": the request was refused.
        refusal: Why there is no text, if the server says so.
        cost: Tokens and price.
        model: The model, as the server names it.
        reasoning: What the model wrote on the way to the text.
    """

    text: str
    finish: str
    refusal: str
    cost: Cost
    model: str
    reasoning: str = ""

    def to_record(self, request_id: str) -> dict[str, Any]:
        """Returns the reply's record (`ReplyRecord`)."""
        record = {"id": request_id, "reply": self.text, "finish": self.finish, "refusal": self.refusal}
        record |= self.cost._asdict() | {"model": self.model}
        return record | ({"reasoning": self.reasoning} if self.reasoning else {})


class ChatCompletions:
    """The chat completions of an endpoint."""

    def __init__(self, endpoint: EndpointConfig, transport: Any = None) -> None:
        """
        Args:
            endpoint: The endpoint.
            transport: An httpx transport in place of the network.

        Raises:
            EndpointError: for a proxy in the environment that cannot be used.
        """
        import httpx

        self.endpoint = endpoint
        self.url = f"{endpoint.base_url.rstrip('/')}/chat/completions"
        key = endpoint_key(endpoint)
        self.masking = Masking(key)
        # A reply that is not compressed takes as many bytes in memory as arrive.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self.client = httpx.AsyncClient(
                transport=transport,
                headers=headers,
                timeout=httpx.Timeout(endpoint.timeout, connect=min(CONNECTING, endpoint.timeout)),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=endpoint.concurrency),
                follow_redirects=False,
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:  # nothing else here is read from outside
            why = "SOCKS needs pip install 'httpx[socks]'" if isinstance(error, ImportError) else "no such address"
            raise EndpointError(
                f"{endpoint.base_url}: the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used ({why})"
            ) from None

    async def complete(self, body: Mapping[str, Any], highest: Cost) -> ChatReply:
        """Sends a request once.

        Its highest cost counts where the server reports none, or one that cannot be.

        Raises TransientError or EndpointError, as this module's first lines say.
        """
        import httpx

        try:
            async with asyncio.timeout(self.endpoint.timeout):
                response, content = await self._send(body)
            if not 200 <= response.status_code < 300:
                return self._refused(response, content)
            return self._reply(self._message(response, content), highest)
        except NotACompletionError as error:
            raise TransientError(NO_COMPLETION, detail=self.masking.line(str(error), 300)) from None
        except CutOffError as error:
            raise TransientError(BROKEN_OFF, detail=self.masking.line(str(error), 100)) from None
        except httpx.InvalidURL as error:
            raise EndpointError(f"{self.endpoint.base_url}: {error}") from None
        except (TimeoutError, httpx.HTTPError) as error:
            raise self._lost(error) from None

    async def close(self) -> None:
        """Closes the connections."""
        await self.client.aclose()

    async def _send(self, body: Mapping[str, Any]) -> tuple[Any, bytes]:
        """Sends a request; returns the response and its body."""
        sent = dict(body)
        if self.endpoint.stream:
            sent |= {"stream": True, "stream_options": {"include_usage": True}}
        content = bytearray()
        async with self.client.stream("POST", self.url, content=json.dumps(sent).encode()) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise NotACompletionError(f"a reply compressed by {response.headers['content-encoding']}, unasked")
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > LONGEST_BODY:
                    raise NotACompletionError(f"more than {LONGEST_BODY:,} bytes")
                if self.endpoint.stream and stream_ended(content, len(piece)):
                    break
        return response, bytes(content)

    def _message(self, response: Any, content: bytes) -> Message:
        try:
            return (read_stream if self.endpoint.stream else read_message)(content)
        except NotACompletionError as error:
            if response.status_code != 200:
                raise NotACompletionError(f"http {response.status_code}, {error}") from None
            ends = "content-length" in response.headers or "transfer-encoding" in response.headers
            if not ends and content.lstrip()[:1] == b"{":
                raise CutOffError("nobody can tell whether there was more to come") from None
            raise

    def _reply(self, message: Message, highest: Cost) -> ChatReply:
        if message.finish == "malformed":  # a word of our own records
            raise NotACompletionError("the finish reason 'malformed'")
        text, reasoning, refusal = map(self.masking, (message.text, message.reasoning, message.refusal))
        size = len((message.text + message.reasoning + message.refusal).encode())
        counts = message.usage.get("prompt_tokens"), message.usage.get("completion_tokens")
        if None in counts:  # a server that does not count: a text has at most as many tokens as bytes
            counts = highest.tokens_in, min(size + 1, highest.tokens_out)
        tokens_in = _possible(counts[0], 1, highest.tokens_in)
        tokens_out = _possible(counts[1], min(size, 1), highest.tokens_out)
        cost = Cost.of(self.endpoint, tokens_in, tokens_out)
        finish, model = (self.masking.line(name, 100) for name in (message.finish, message.model))
        return ChatReply(text, finish or "stop", refusal, cost, model or self.endpoint.model, reasoning)

    def _refused(self, response: Any, content: bytes) -> ChatReply:
        """The reply that a refusal of this request is; raises what other statuses mean."""
        status, message = response.status_code, self.masking.line(described(content), 300)
        if 300 <= status < 400:
            place = self.masking.line(response.headers.get("location", "nowhere"), 300)
            raise EndpointError(
                f"{self.endpoint.base_url} redirects (http {status}) to {place}; requests are not sent on, "
                "so name the right address in base_url"
            )
        moderated = status == 403 and is_moderated(message)
        if (status in CLOSED and not moderated) or (status in REFUSED and is_unpaid(message)):
            check = "; check base_url (it ends mostly with /v1) and model" if status in (404, 405) else ""
            raise EndpointError(f"{self.endpoint.base_url} refuses (http {status}): {message}{check}")
        if status not in REFUSED and not moderated:
            raise TransientError(f"http {status}", retry_after(response.headers), message)
        return ChatReply("", "error", f"http {status}: {message}", Cost(0, 0, 0.0), self.endpoint.model)

    def _lost(self, error: Exception) -> TransientError:
        """What a connection that failed means."""
        import httpx

        said = self.masking.line(first_cause(error), 200)
        if isinstance(error, httpx.RemoteProtocolError) and "illegal" in said.lower():
            return TransientError(NO_COMPLETION, detail=f"something that is no HTTP: {said}")
        if isinstance(error, httpx.ConnectTimeout):
            return TransientError(NO_CONNECTION, detail="nobody answers at this address")
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            return TransientError("time-out", detail=f"no reply within {self.endpoint.timeout:g} s")
        kind = NO_CONNECTION if isinstance(error, httpx.ConnectError | httpx.ProxyError) else BROKEN_OFF
        return TransientError(kind, detail=said)


def _possible(tokens: Any, least: int, booked: int) -> int:
    """A server's count of tokens if it can be right, else what was booked."""
    return tokens if type(tokens) is int and least <= tokens <= booked else booked
