"""Options of the server."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field, fields

from prosg.utils.options import check_at_least
from prosg.utils.values import check_fields

__all__ = ["ApiOptions", "KeyLimits", "is_loopback"]

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\sA-Z/?#]+")


@dataclass(frozen=True)
class KeyLimits:
    """What one key may use; 0 stands for no limit. Without keys they hold for all requests together.

    Attributes:
        requests_per_minute: Requests that start per minute.
        tokens_per_minute: Tokens, read and written, per minute.
        rows: Answers at once, of one request with several choices or of several requests.
        prompts: Stored prompts.
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    rows: int = 0
    prompts: int = 1000

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, [one.name for one in fields(self)], 0)


@dataclass(frozen=True)
class ApiOptions:
    """What the server accepts, and from whom.

    Attributes:
        host: Address to listen at; any other than this machine's own needs keys.
        port: TCP port; 0 takes a free one.
        name: What clients call the model; the name of its file or folder by default.
        keys: File of API keys, made by prosg keys; required where other machines can connect.
        prompts: Folder of stored prompts, or a URL that fsspec knows (s3://NAME/FOLDER); without one they are gone when
            the server ends.
        prompt_cache: MiB of memory for stored prompts that were used lately.
        timeout: Seconds after which a request ends, whether it waits or writes.
        drain: Seconds that running requests have to end after SIGTERM.
        max_prompt_tokens: Longest prompt, tokens.
        max_output_tokens: Longest answer, tokens.
        default_output_tokens: Longest answer where a request does not say, tokens.
        max_choices: Answers to one request.
        max_body_bytes: Longest body of a request, bytes.
        max_upload_bytes: Largest file of an encoded prompt, bytes.
        body_timeout: Seconds that a request's body may take to arrive.
        allow_origin: Origins whose pages may call the server from a browser (CORS).
        log_prompts: Write prompts and answers to the log, too.
        limits: What one key may use.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    name: str = ""
    keys: str = ""
    prompts: str = ""
    prompt_cache: int = 256
    timeout: float = 300.0
    drain: float = 30.0
    max_prompt_tokens: int = 32768
    max_output_tokens: int = 4096
    default_output_tokens: int = 256
    max_choices: int = 16
    max_body_bytes: int = 1 << 20
    max_upload_bytes: int = 64 << 20
    body_timeout: float = 30.0
    allow_origin: tuple[str, ...] = ()
    log_prompts: bool = False
    limits: KeyLimits = field(default_factory=KeyLimits)

    def __post_init__(self) -> None:
        check_fields(self)
        counts = ("max_prompt_tokens", "max_output_tokens", "default_output_tokens", "max_choices")
        check_at_least(self, [*counts, "max_body_bytes", "max_upload_bytes"], 1)
        check_at_least(self, ["prompt_cache"], 0)
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; allowed: 0 to 65535")
        for name in ("timeout", "body_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be above 0 seconds")
        if not 0 <= self.drain < math.inf:
            raise ValueError(f"drain is {self.drain:g}; it must be 0 seconds or more")
        for origin in self.allow_origin:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"allow_origin is {origin!r}; an origin is written as browsers send it: https://NAME or "
                    "http://NAME:PORT in small letters, without a path"
                )
        if ":" in self.name or not self.name.isprintable():
            raise ValueError(f"name is {self.name!r}; it has no colon, which stands before a stored prompt's id")
        if not self.keys and not is_loopback(self.host):
            raise ValueError(
                f"host is {self.host!r}, where other machines can connect: give --keys FILE (made by: prosg keys add)"
            )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
