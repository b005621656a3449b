"""A chat server that judges answers over HTTP, well or badly, and runs and configurations for `prosg judge`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import yaml

from prosg.data.row import Row, Stage, write_rows
from support.chat_server import ChatServer

ANY = {"type": "words", "min": 1}
STAGED = Row(
    "staged",
    "Tell of the sea, then of a fish.",
    "The sea.\nA fish.",
    stages=(Stage("Tell of the sea", ANY, 0, ""), Stage("Tell of a fish", ANY, 8, "\nA")),
)
PLAIN = Row("plain", "Greet Anna, then thank Bob.", "Hello, Anna.\nThank you, Bob.")
LISTED = Row("listed", "Praise it twice.", "So red. So blue.", extra={"sub_instructions": ["Say red", "Say blue"]})
ROWS = (STAGED, PLAIN, LISTED)
GOOD = ["The sea is wide.\nIt has a fish.", "Hello, Anna!\nThanks, Bob!", "It is red.\nIt is blue."]
HALF = ["The sea is wide.\nIt has none.", "Hello, Anna!", ""]


class JudgeServer(ChatServer):
    """Passes a step if a line of the answer has the step's last word, and quotes that line.

    Certain words in an answer make it misbehave, the first `bad_times` times that it is asked about the answer. It
    prefers the longer of two answers, or always says `lean`.
    """

    def __init__(self, *, bad_times: int = 99, lean: str = "", **options: Any) -> None:
        super().__init__(**{"faults": 0.0, "bad": 0.0, **options})
        self.bad_times, self.lean = bad_times, lean
        self.requests_about: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()

    def write_reply(self, body: dict[str, Any], rng: Random) -> tuple[str, str]:
        kind = body["response_format"]["json_schema"]["name"]
        content = body["messages"][-1]["content"]
        parts = [part.partition("\n>>>")[0] for part in content.split("<<<\n")[1:]]
        with self.lock:
            self.kinds[kind] += 1
            self.requests_about[parts[-1]] += 1
            bad = self.requests_about[parts[-1]] <= self.bad_times
        if kind == "musi_steps":
            if "unclear" in parts[0]:
                return "What do you mean?", "stop"
            return json.dumps({"sub_instructions": parts[0].removesuffix(".").split(", then ")}), "stop"
        if kind == "musi_comparison":
            better = self.lean or ("first" if len(parts[1]) > len(parts[2]) else "second")
            return json.dumps({"reason": "It is.", "better": better}), "stop"
        steps = content.partition("Steps:\n")[2].partition("\n\nReply")[0].splitlines()
        return self._verdicts_of_words([step.split()[-1] for step in steps], parts[1], bad)

    def _verdicts_of_words(self, words: Sequence[str], answer: str, bad: bool) -> tuple[str, str]:
        quotes = [next((line for line in answer.splitlines() if word in line), "") for word in words]
        verdicts = [
            {"step": n, "followed": "yes" if quote else "no", "quote": quote} for n, quote in enumerate(quotes, 1)
        ]
        if bad and "PROSE" in answer:
            return "It follows them all.", "stop"
        if bad and "KEYS" in answer:
            return json.dumps({"verdicts": [{"number": 1, "ok": True} for _ in words]}), "stop"
        if bad and "REFUSE" in answer:
            return "I'm sorry, but I can't judge that.", "stop"
        if bad and "CUT" in answer:
            return json.dumps({"verdicts": verdicts})[:30], "length"
        if bad and "INVENT" in answer:
            verdicts[-1] = {"step": len(words), "followed": "yes", "quote": "words that nobody wrote"}
        return json.dumps({"verdicts": verdicts}), "stop"


def make_run(folder: Path, answers: Mapping[str, Sequence[str]], rows: Sequence[Row] = ROWS) -> Path:
    """The folder of an evaluation with some systems' answers to the first rows."""
    write_rows(folder / "rows.jsonl", rows)
    (folder / "answers").mkdir()
    for name, texts in answers.items():
        lines = [json.dumps({"id": row.id, "text": text}) for row, text in zip(rows, texts, strict=False)]
        (folder / "answers" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_config(folder: Path, url: str, **changes: Any) -> str:
    """The path of a judge's configuration; changes of the endpoint are merged with its options."""
    endpoint = {"base_url": url, "model": "judge", "api_key_env": "", "attempts": 4, "backoff": 0.01, "timeout": 10.0}
    content: dict[str, Any] = {"out": str(folder / "judge"), "budget": {"requests": 500, "tokens": 10**7}}
    content["endpoint"] = endpoint | changes.pop("endpoint", {})
    (folder / "judge.yaml").write_text(yaml.safe_dump(content | changes))
    return str(folder / "judge.yaml")
