"""Questions that are sent again until a reply is usable."""

from __future__ import annotations

from typing import Any

import pytest

from prosg.llm.attempts import Attempts, replay_attempts
from prosg.llm.completion import ChatRequest


@pytest.mark.parametrize(
    ("recorded", "results", "missing"),
    [
        ([], [], "0"),
        (["bad"], ["bad"], "1"),
        (["bad", "good"], ["bad", "good"], None),
        (["good", "never read"], ["good"], None),
        (["bad", "bad", "bad"], ["bad", "bad", "bad"], None),
    ],
)
def test_the_first_usable_reply_or_the_last_attempt_ends_it(
    recorded: list[str], results: list[str], missing: str | None
) -> None:
    replies: dict[str, Any] = {str(attempt): {"reply": text} for attempt, text in enumerate(recorded)}
    attempts: Attempts[str] = replay_attempts(
        lambda attempt: ChatRequest(str(attempt), {}),
        lambda reply: str(reply["reply"]),
        lambda text: text == "good",
        3,
        replies,
    )
    assert attempts.results == [reply["reply"] for reply in attempts.replies] == results
    assert (attempts.missing and attempts.missing.id) == missing
