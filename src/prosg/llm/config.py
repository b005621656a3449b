"""An endpoint that speaks the OpenAI API: where it is, how it is asked, what it may cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from prosg.utils.options import option

__all__ = ["BudgetConfig", "EndpointConfig", "check_budget", "check_endpoint"]


@dataclass(frozen=True)
class EndpointConfig:
    """A server that speaks the OpenAI API, and how to ask it.

    Attributes:
        base_url: Where it is, the version included.
        model: What the server calls the model.
        api_key_env: Environment variable that holds the key, which is written nowhere; "" for a server without keys.
        concurrency: Requests on their way at once.
        timeout: Seconds that a request may take as a whole.
        attempts: How often a request is sent at most while it meets 429, 5xx, time-outs or replies that break off.
        backoff: Seconds before the second attempt; doubled for every further one.
        longest_wait: Longest pause in seconds; a server that asks for a longer one is not waited for.
        stream: Whether replies come in pieces. Turn it on for servers that close silent connections.
        json: How the server is told that JSON is wanted: by the schema, as any object, or by words only.
        token_parameter: What the server calls the limit of a reply.
        send_seed: Whether requests carry their seed; turn it off for a server that refuses the parameter.
        input_price: Money per million tokens that are read.
        output_price: Money per million tokens that are written.
        extra: More parameters of each request, as the server knows them.
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
    json: Literal["schema", "object", "none"] = "schema"
    token_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    send_seed: bool = True
    input_price: float = 0.0
    output_price: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    licence: str = ""


@dataclass(frozen=True)
class BudgetConfig:
    """Hard caps over all runs of the build. What a request can cost at most is booked before it is sent.

    Attributes:
        requests: Requests, attempts that failed included. Has to be given.
        tokens: Tokens read and written. Has to be given.
        money: In the unit of the prices. Has to be given where there are prices.
    """

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None


OURS = {"model", "messages", "temperature", "max_tokens", "max_completion_tokens", "seed", "n"}


def check_budget(caps: BudgetConfig, *endpoints: EndpointConfig) -> None:
    """ValueError for caps that are missing, given these endpoints' prices, or that let nothing through."""
    priced = any((one.input_price, one.output_price) != (0, 0) for one in endpoints)
    for name, value in dataclasses.asdict(caps).items():
        if value is None and (name != "money" or priced):
            why = "there are prices, so a cap on money has to be given" if name == "money" else "a cap has to be given"
            raise ValueError(f"budget.{name} is missing; {why}")
        if value is not None and not value > 0:
            raise ValueError(f"budget.{name} is {value}; a cap must be above 0, or no request can be sent")
    if caps.money is not None and not priced:
        raise ValueError("budget.money is set, but endpoint.input_price and endpoint.output_price are 0")


def check_endpoint(name: str, endpoint: EndpointConfig) -> None:
    """ValueError for what cannot be; `name` is what the file calls this endpoint."""
    for key in ("concurrency", "attempts"):
        if option(endpoint, key) < 1:
            raise ValueError(f"{name}.{key} is {option(endpoint, key)}; it must be at least 1")
    for key in ("backoff", "longest_wait", "input_price", "output_price"):
        if option(endpoint, key) < 0:
            raise ValueError(f"{name}.{key} is {option(endpoint, key)}; it must be 0 or more")
    if not endpoint.model:
        raise ValueError("endpoint.model is missing; it names the model as the server does")
    url = urlsplit(endpoint.base_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{name}.base_url must be an address like http://127.0.0.1:8000/v1")
    if url.username or url.password or url.query:
        raise ValueError(f"{name}.base_url holds a password or parameters; give a key in an environment variable")
    if endpoint.timeout <= 0:
        raise ValueError(f"{name}.timeout is {endpoint.timeout}; it must be above 0 seconds")
    if taken := OURS & endpoint.extra.keys():
        raise ValueError(f"{name}.extra sets {', '.join(sorted(taken))}, which other options are for")
