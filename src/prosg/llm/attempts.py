"""A question that is sent again with another seed until a reply is usable, replayed from recorded replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from prosg.llm.completion import ChatRequest, ReplyRecord

__all__ = ["Attempts", "replay_attempts"]

T = TypeVar("T")


@dataclass(frozen=True)
class Attempts(Generic[T]):
    """The attempts at a question whose replies are recorded.

    Attributes:
        results: What was parsed from each reply, in the order of the attempts.
        replies: The replies.
        missing: The request that is to be sent next; None where a reply was usable or all attempts were used.
    """

    results: list[T]
    replies: list[ReplyRecord]
    missing: ChatRequest | None


def replay_attempts(
    make_request: Callable[[int], ChatRequest],
    parse: Callable[[ReplyRecord], T],
    usable: Callable[[T], bool],
    tries: int,
    replies: Mapping[str, ReplyRecord],
) -> Attempts[T]:
    """Parses the recorded replies to a question, up to the first usable one.

    Args:
        make_request: Returns the request of an attempt, counted from 0.
        parse: Parses a reply.
        usable: Whether a parsed reply ends the attempts.
        tries: Greatest number of attempts.
        replies: Recorded replies by the request's id.
    """
    results: list[T] = []
    received: list[ReplyRecord] = []
    for attempt in range(tries):
        request = make_request(attempt)
        if request.id not in replies:
            return Attempts(results, received, request)
        received.append(replies[request.id])
        results.append(parse(received[-1]))
        if usable(results[-1]):
            break
    return Attempts(results, received, None)
