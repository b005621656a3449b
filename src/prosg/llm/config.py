"""Options of an endpoint with the OpenAI API, and caps on what its requests may cost."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from prosg.utils.options import check_at_least

__all__ = [
    "LIMITS",
    "BudgetConfig",
    "EndpointConfig",
    "check_budget",
    "check_endpoint",
    "check_top_p",
    "endpoint_key",
    "require_key",
]


@dataclass(frozen=True)
class EndpointConfig:
    """A server with the OpenAI API, and how requests are sent to it.

    Attributes:
        base_url: Address of the API, the version included.
        model: The server's name for the model.
        api_key_env: Environment variable that holds the key, which is written nowhere; "" for a server without keys.
        concurrency: Greatest number of requests under way at once.
        timeout: Seconds that a request may take as a whole.
        attempts: How often a request is sent at most, as long as it meets 429, 5xx, time-outs or truncated replies.
        backoff: Seconds before the second attempt; doubled for every further one.
        longest_wait: Longest pause in seconds; a request is given up where the server demands a longer one.
        stream: Whether replies are streamed. Turn it on for servers that close silent connections.
        json: How JSON is requested: by its schema, as any object, or by the prompt's words only (none or null).
        token_parameter: The server's name for the limit of a reply; null sends no limit.
        send_seed: Whether requests carry their seed; turn it off for a server that refuses the parameter.
        input_price: Money per million tokens that are read.
        output_price: Money per million tokens that are written.
        extra: More parameters of each request, under the server's names; one that is sent anyway (temperature, top_p,
            seed, response_format) is replaced, and null leaves it out.
        licence: Terms of the model's output, for the data card.
    """

    base_url: str = "http://127.0.0.1:8000/v1"
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 300.0
    attempts: int = 10
    backoff: float = 1.0
    longest_wait: float = 120.0
    stream: bool = False
    json: Literal["schema", "object", "none", None] = "schema"
    token_parameter: Literal["max_tokens", "max_completion_tokens", None] = "max_tokens"
    send_seed: bool = True
    input_price: float = 0.0
    output_price: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    licence: str = ""


@dataclass(frozen=True)
class BudgetConfig:
    """Hard caps over all runs of a command. The highest cost of a request is booked before it is sent.

    Attributes:
        requests: Requests, failed attempts included. Required.
        tokens: Tokens read and written. Required.
        money: In the unit of the prices. Required where there are prices.
    """

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None


LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
"""The server's names for the limit of a reply."""
RESERVED_PARAMETERS = frozenset({"model", "messages", "n", "stream", "stream_options"} | LIMITS)
"""Parameters that costs and the reading of replies depend on, so that `extra` may not set them."""


def check_budget(caps: BudgetConfig, *endpoints: EndpointConfig) -> None:
    """Raises ValueError for a cap that is missing, given the endpoints' prices, or that lets nothing through."""
    priced = any((endpoint.input_price, endpoint.output_price) != (0, 0) for endpoint in endpoints)
    for name, value in dataclasses.asdict(caps).items():
        if value is None and (name != "money" or priced):
            why = "there are prices, so a cap on money has to be given" if name == "money" else "a cap has to be given"
            raise ValueError(f"budget.{name} is missing; {why}")
        if value is not None and not value > 0:
            raise ValueError(f"budget.{name} is {value}; a cap must be above 0, or no request can be sent")
    if caps.money is not None and not priced:
        raise ValueError("budget.money is set, but endpoint.input_price and endpoint.output_price are 0")


def check_endpoint(name: str, endpoint: EndpointConfig) -> None:
    """Raises ValueError for an option that is not allowed. `name`: the configuration's name for the endpoint."""
    check_at_least(endpoint, ("concurrency", "attempts"), 1, f"{name}.")
    check_at_least(endpoint, ("backoff", "longest_wait", "input_price", "output_price"), 0, f"{name}.")
    if not endpoint.model:
        raise ValueError(f"{name}.model is missing; it is the server's name for the model")
    try:
        url = urlsplit(endpoint.base_url)
        reachable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # a port that is none
        reachable = False
    if not reachable or not endpoint.base_url.isprintable():
        raise ValueError(f"{name}.base_url must be an address like http://127.0.0.1:8000/v1")
    if url.username or url.password or url.query:
        raise ValueError(f"{name}.base_url holds a password or parameters; give a key in an environment variable")
    if url.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(f"{name}.base_url ends with /chat/completions, which is put behind it: leave that out")
    if not 0 < endpoint.timeout < math.inf:
        raise ValueError(f"{name}.timeout is {endpoint.timeout}; it must be above 0 seconds, and finite")
    left_out = {key for key in LIMITS if endpoint.extra.get(key, "") is None}
    if reserved := RESERVED_PARAMETERS & endpoint.extra.keys() - left_out:
        raise ValueError(f"{name}.extra sets {', '.join(sorted(reserved))}, which other options are for")


def check_top_p(top_p: float | None, inside: str = "") -> None:
    """Raises ValueError for a share that is none. `inside`: what stands before `top_p` in the error."""
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"{inside}top_p is {top_p}; it must be above 0 and at most 1")


def endpoint_key(endpoint: EndpointConfig) -> str:
    """Returns an endpoint's key from the environment, without the white space around it; "" if there is none."""
    return os.environ.get(endpoint.api_key_env, "").strip() if endpoint.api_key_env else ""


def require_key(name: str, endpoint: EndpointConfig) -> None:
    """Raises ValueError if an endpoint's key is not in the environment. `name`: as in `check_endpoint`."""
    key = endpoint_key(endpoint)
    if endpoint.api_key_env and not key:
        raise ValueError(
            f"{name}.api_key_env names {endpoint.api_key_env}, which is not set in the environment; "
            "set it, or give '' for a server without keys"
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"{name}.api_key_env names {endpoint.api_key_env}, whose value holds characters that no key has; "
            "set it to plain ASCII text in one line"
        )
