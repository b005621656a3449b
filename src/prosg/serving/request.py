"""What the engine is asked for, and what it reports: requests, pieces of text, the end of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from prosg.core.encoded import EncodedPrompt, Memory
from prosg.generation.sampling import Sampling

__all__ = ["MOST_LOGPROBS", "Chosen", "Finished", "Piece", "Reason", "Request"]

Reason = Literal["stop", "length", "not_finite", "cancelled", "deadline", "error"]
"""Why an answer ended: at an end token or a stop string, at its budget, where the model's logits were no numbers any
more, because nobody wants it any more, at its deadline, or by an error."""
MOST_LOGPROBS = 20
"""Likeliest tokens that can be reported beside the chosen one."""


@dataclass(frozen=True, eq=False)
class Request:
    """One answer that is wanted.

    Its text is that of `ProSG.generate` for the same prompt and options, whatever else the engine answers meanwhile.

    Attributes:
        ids: Token ids to read: the prompt, or what follows `encoded`, as a conversation's later turns do.
        sampling: How tokens are chosen, and when the answer ends. `hold_until`, `force_marker` and `refresh_every` are
            not for requests.
        encoded: A prompt that is encoded already, one row.
        prefix: Without `encoded`: so many of `ids` are the prompt that memory holds, as a system prompt; the rest is
            read under its update and anchor. 0 for all of them.
        memory: What holds the prompt beside the state, as in `ProSG.encode`. None for the model's own, and for
            `encoded` as it is.
        tau: Window of the anchor, tokens.
        number: Row number of the random draws. Sample i of a prompt is `i << SAMPLE_BITS` (`prosg.model.text_model`).
        logprobs: How many of the likeliest tokens to report beside the chosen one; None for no log-probabilities.
        owner: Whose request it is. Owners take turns where requests wait.
        deadline: `time.monotonic()` by which it ends, finished or not; None for no such time.
    """

    ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    encoded: EncodedPrompt | None = None
    prefix: int = 0
    memory: Memory | None = None
    tau: float | None = None
    number: int = 0
    logprobs: int | None = None
    owner: str = ""
    deadline: float | None = None

    def __post_init__(self) -> None:
        if not self.ids and self.encoded is None:
            raise ValueError("a prompt is empty; every prompt needs at least one token")
        if not 0 <= self.prefix <= len(self.ids):
            raise ValueError(f"prefix is {self.prefix}; it must be 0 to {len(self.ids)}, the number of ids")
        if self.prefix and self.encoded is not None:
            raise ValueError("prefix and encoded are given; an encoded prompt is what memory holds")
        if self.encoded is not None and self.encoded.batch != 1:
            raise ValueError(f"encoded has {self.encoded.batch} prompts; a request has one")
        if self.number < 0:
            raise ValueError(f"number is {self.number}, must not be negative")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise ValueError(f"logprobs is {self.logprobs}; it must be 0 to {MOST_LOGPROBS}, or None for none")
        for name in ("hold_until", "force_marker", "refresh_every"):
            if getattr(self.sampling, name):
                raise ValueError(f"{name} is {getattr(self.sampling, name)!r}; requests cannot have it")


class Chosen(NamedTuple):
    """A token of an answer."""

    id: int
    text: str
    """what it decodes to alone"""
    logprob: float | None
    """of the model's own distribution, at temperature 1 and without top_k and top_p; None unless it was asked for"""
    top: tuple[tuple[int, float], ...]
    """the likeliest tokens and their log-probabilities, as many as were asked for"""
    place: int = 0
    """characters of the answer before its text: as many as the answer has in the end, or more, where it was cut off"""


class Piece(NamedTuple):
    """A part of an answer that nothing can take back any more: what may begin a stop string is held back."""

    text: str
    """maybe "" in the last piece, where tokens are left that a stop string cut off"""
    tokens: tuple[Chosen, ...]
    """the tokens whose text has begun in what was told so far, each once, the end token left out; the last piece has
    all that are left"""


class Finished(NamedTuple):
    """The end of an answer; comes once, after all pieces."""

    reason: Reason
    prompt_tokens: int
    """tokens of `ids` that stand before the answer; those of `encoded` are not counted"""
    cached_tokens: int
    """those of them that were not read anew"""
    completion_tokens: int
    """without the end token"""
    stop: str | None = None
    """the stop string that ended it"""
    error: str | None = None
    """what went wrong, for reason "error" """
