"""What is said while a server lets one wait, so that nobody sits before a silent screen."""

from __future__ import annotations

import asyncio
import time

from prosg.llm.config import EndpointConfig
from prosg.utils.progress import say

__all__ = ["WaitingNotes"]

QUIET = 10.0
"""Seconds without a word after which it is said what is being waited for."""


class WaitingNotes:
    """Lines on stderr about an endpoint, never many of them."""

    def __init__(self, endpoint: EndpointConfig) -> None:
        self.endpoint = endpoint
        self.last = time.monotonic()

    def say(self, text: str) -> None:
        """Prints a line, unless there was one a moment ago."""
        now = time.monotonic()
        if now - self.last >= QUIET / 2:
            self.last = now
            say(text)

    async def say_while_waiting(self) -> None:
        """Says again and again, ever less often, that a reply is being waited for."""
        began, pause = time.monotonic(), QUIET
        while True:
            await asyncio.sleep(pause)
            waited = time.monotonic() - began
            self.say(f"waiting for {self.endpoint.base_url}: {waited:.0f} s of {self.endpoint.timeout:g} s")
            pause *= 2
