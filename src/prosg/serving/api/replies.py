"""Replies in OpenAI's form, whole and streamed: one class for each of the two kinds of request."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prosg.serving.request import Chosen
from prosg.tokenizers.base import Tokenizer

__all__ = ["ChatReply", "CompletionReply", "Reply"]

LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of 0, which JSON cannot say."""


@dataclass
class Reply:
    """How the answers to one request are written.

    Attributes:
        model: As the client named it.
        fingerprint: Of the model.
        tokenizer: Of the model.
        logprobs: Whether they were asked for.
        include_usage: Whether a last chunk has the usage, and all others say that they have none.
        id: Of the reply.
        created: Unix time.
    """

    model: str
    fingerprint: str
    tokenizer: Tokenizer
    logprobs: bool
    include_usage: bool = False
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    _texts: dict[int, tuple[str, bytes | None]] = field(default_factory=dict, repr=False)

    prefix = ""

    def __post_init__(self) -> None:
        self.id = self.id or f"{self.prefix}-{secrets.token_hex(12)}"

    def opening(self, choice: int) -> dict[str, Any] | None:
        """The chunk before a choice's text, if there is one."""
        raise NotImplementedError

    def piece(self, choice: int, text: str, tokens: Sequence[Chosen]) -> dict[str, Any]:
        """The chunk of a piece of text."""
        raise NotImplementedError

    def end(self, choice: int, reason: str) -> dict[str, Any]:
        """The chunk after a choice's text."""
        raise NotImplementedError

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk after all choices."""
        raise NotImplementedError

    def whole(self, texts: Sequence[str], tokens: Sequence[Sequence[Chosen]], reasons: Sequence[str]) -> dict[str, Any]:
        """The reply that is not streamed, but for its usage."""
        raise NotImplementedError

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"fp_{self.fingerprint[:12]}",
        }

    def _decoded(self, token: int) -> tuple[str, bytes | None]:
        """The text of a token, and its bytes if they are known; found once for all places of a reply that name it."""
        if token not in self._texts:
            spelled = self.tokenizer.bytes_of(token)
            text = self.tokenizer.decode([token]) if spelled is None else spelled.decode(errors="replace")
            self._texts[token] = text, spelled
        return self._texts[token]

    def _chunk(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head(kind) | {"choices": choices} | ({"usage": None} if self.include_usage else {})


class ChatReply(Reply):
    """Of POST /v1/chat/completions."""

    prefix = "chatcmpl"

    def opening(self, choice: int) -> dict[str, Any] | None:
        return self._delta(choice, {"role": "assistant", "content": ""})

    def piece(self, choice: int, text: str, tokens: Sequence[Chosen]) -> dict[str, Any]:
        return self._delta(choice, {"content": text}, logprobs=self._logprobs(tokens))

    def end(self, choice: int, reason: str) -> dict[str, Any]:
        return self._delta(choice, {}, reason=reason)

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        return self._head("chat.completion.chunk") | {"choices": []} | usage

    def whole(self, texts: Sequence[str], tokens: Sequence[Sequence[Chosen]], reasons: Sequence[str]) -> dict[str, Any]:
        choices = [
            {
                "index": choice,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": self._logprobs(chosen),
                "finish_reason": reason,
            }
            for choice, (text, chosen, reason) in enumerate(zip(texts, tokens, reasons, strict=True))
        ]
        return self._head("chat.completion") | {"choices": choices}

    def _delta(
        self, choice: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        inner = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._chunk("chat.completion.chunk", [inner])

    def _logprobs(self, tokens: Sequence[Chosen]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        content = [
            self._token(token.id, token.logprob)
            | {"top_logprobs": [self._token(other, logprob) for other, logprob in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        """A token; its bytes tell parts of characters from one another, whose texts are alike."""
        text, spelled = self._decoded(token)
        return {
            "token": text,
            "logprob": _finite(logprob),
            "bytes": None if spelled is None else [*spelled],
        }


class CompletionReply(Reply):
    """Of POST /v1/completions."""

    prefix = "cmpl"

    def opening(self, choice: int) -> dict[str, Any] | None:
        return None

    def piece(self, choice: int, text: str, tokens: Sequence[Chosen]) -> dict[str, Any]:
        return self._chunk("text_completion", [self._choice(choice, text, tokens, None)])

    def end(self, choice: int, reason: str) -> dict[str, Any]:
        inner = {"index": choice, "text": "", "logprobs": None, "finish_reason": reason}
        return self._chunk("text_completion", [inner])

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        return self._head("text_completion") | {"choices": []} | usage

    def whole(self, texts: Sequence[str], tokens: Sequence[Sequence[Chosen]], reasons: Sequence[str]) -> dict[str, Any]:
        choices = [
            self._choice(choice, *parts) for choice, parts in enumerate(zip(texts, tokens, reasons, strict=True))
        ]
        return self._head("text_completion") | {"choices": choices}

    def _choice(self, choice: int, text: str, tokens: Sequence[Chosen], reason: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(tokens) if self.logprobs else None
        return {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Chosen]) -> dict[str, Any]:
        return {
            "tokens": [self._spelled(token.id) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [
                # The token itself is always there, as OpenAI's: maybe one more than was asked for.
                {self._spelled(other): _finite(logprob) for other, logprob in ((token.id, token.logprob), *token.top)}
                for token in tokens
            ],
            "text_offset": [token.place for token in tokens],
        }

    def _spelled(self, token: int) -> str:
        """The text of a token; of a part of a character its bytes, as OpenAI writes them: texts are keys here."""
        text, spelled = self._decoded(token)
        if spelled is None or text.encode() == spelled:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _finite(logprob: float | None) -> float:
    return LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)
