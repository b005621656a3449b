"""The judge's results, derived from its recorded replies, and the files of a run that hold them.

    RUN/judge/NAME.jsonl         one system's answers: {"id", "answer": a hash of prompt and answer, "result", "stages":
                                 [{"stage", "instruction", "result", "quote", "why"}], "replies"}
    RUN/judge/contents.json      the hashes of these files
    RUN/judge/pairs/A--B.jsonl   two systems: {"id", "answers": both hashes, "preferred": "first" (A) | "second" (B) |
                                 "tie" | "unparsed", "orders": the replies with A first, and with B first, "replies"}

The files are rewritten as a whole; an answer or pair with a reply still missing has no line yet. What an earlier
command wrote about other pairs stays as long as both answers are what they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.row import Row, derived_id
from prosg.evaluation.judge.config import JudgeConfig
from prosg.evaluation.judge.files import answer_hashes, pair_hashes, read_judged_pairs
from prosg.evaluation.judge.protocol import (
    UNPARSED,
    InstructionStep,
    StepResult,
    comparison_request,
    preference,
    read_comparison,
    read_step_verdicts,
    read_steps,
    row_result,
    row_steps,
    step_results,
    steps_request,
    verdicts_request,
)
from prosg.evaluation.run_folder import RunFolder
from prosg.llm.attempts import Attempts, replay_attempts
from prosg.musi.verdicts import Verdict
from prosg.utils.contents import CONTENTS, record_contents
from prosg.utils.io import write_lines

__all__ = ["AnswerComparison", "AnswerPair", "AnswerToJudge", "JudgeRecords", "iter_answers"]

REPLY_FIELDS = ("id", "reply", "finish", "refusal", "model")
"""Fields of a recorded reply that a run's files repeat."""


class AnswerToJudge(NamedTuple):
    """An answer and the steps it is judged by. Systems that wrote the same text share one."""

    prompt: str
    steps: tuple[InstructionStep, ...]
    text: str


class AnswerComparison(NamedTuple):
    """Two answers to one prompt in the order in which they are shown."""

    prompt: str
    first: str
    second: str


class AnswerPair(NamedTuple):
    """Two systems' answers to one row.

    Attributes:
        name: "A--B", the systems' names.
        row_id: The row's id.
        orders: The comparison with A's answer first, then with B's first.
    """

    name: str
    row_id: str
    orders: tuple[AnswerComparison, AnswerComparison]


class JudgeRecords:
    """Parses the replies recorded so far.

    Every question has a first request and, while replies are unusable, further attempts; the methods return all
    attempts with recorded replies, and in `missing` the request to be sent next, if any.
    """

    def __init__(self, config: JudgeConfig, replies: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """
        Args:
            config: The judge's options.
            replies: By kind of request ("steps", "verdicts", "comparison") and request id; may grow afterwards.
        """
        self.config = config
        self.replies = replies

    def steps(self, prompt: str) -> Attempts[list[InstructionStep] | str]:
        """Attempts at splitting an instruction into steps."""
        return replay_attempts(
            lambda attempt: steps_request(self.config, prompt, attempt),
            read_steps,
            lambda steps: not isinstance(steps, str),
            self.config.tries,
            self.replies["steps"],
        )

    def verdicts(self, answer: AnswerToJudge) -> Attempts[list[Verdict | str]]:
        """Attempts at judging an answer step by step; none for an empty answer, which fails without a judge."""
        if not answer.text.strip():
            return Attempts([], [], None)
        return replay_attempts(
            lambda attempt: verdicts_request(self.config, answer.prompt, answer.steps, answer.text, attempt),
            lambda reply: read_step_verdicts(reply, answer.steps, answer.text),
            lambda verdicts: all(isinstance(verdict, Verdict) for verdict in verdicts),
            self.config.tries,
            self.replies["verdicts"],
        )

    def comparison(self, pair: AnswerComparison) -> Attempts[str]:
        """Attempts at comparing two answers in one order; equal answers are a tie without a judge."""
        if pair.first == pair.second:
            return Attempts(["tie"], [], None)
        return replay_attempts(
            lambda attempt: comparison_request(self.config, pair.prompt, pair.first, pair.second, attempt),
            read_comparison,
            lambda position: position != UNPARSED,
            self.config.tries,
            self.replies["comparison"],
        )

    def answer_to_judge(self, row: Row, text: str) -> AnswerToJudge | None:
        """The answer with the steps of its row; None while these are unknown."""
        steps: Sequence[InstructionStep] | str = row_steps(row)
        if not steps:
            attempts = self.steps(row.prompt)
            steps = attempts.results[-1] if attempts.results else ""
        return None if not steps or isinstance(steps, str) else AnswerToJudge(row.prompt, tuple(steps), text)

    def pairs(self, folder: RunFolder) -> list[AnswerPair]:
        """The configured pairs of systems, for each row of a run that both have answered."""
        pairs = []
        for first, second in self.config.pairs:
            ours, theirs = (folder.systems[name].answers if name in folder.systems else {} for name in (first, second))
            for row in folder.rows.values():
                if row.id in ours and row.id in theirs:
                    forward = AnswerComparison(row.prompt, ours[row.id], theirs[row.id])
                    swapped = AnswerComparison(row.prompt, theirs[row.id], ours[row.id])
                    pairs.append(AnswerPair(f"{first}--{second}", row.id, (forward, swapped)))
        return pairs

    def write(self, folder: RunFolder) -> None:
        """Writes the files of a run."""
        judge_folder = folder.path / "judge"
        systems: dict[str, list[dict[str, Any]]] = {name: [] for name in folder.systems}
        for name, row, text in iter_answers(folder):
            systems[name] += self._answer_lines(row, text)
        files = {judge_folder / f"{name}.jsonl": lines for name, lines in systems.items()}
        pairs: dict[str, list[dict[str, Any]]] = {}
        for pair in self.pairs(folder):
            pairs.setdefault(pair.name, []).extend(self._pair_lines(pair))
        files |= {judge_folder / "pairs" / f"{name}.jsonl": lines for name, lines in pairs.items()}
        others = {*judge_folder.glob("pairs/*.jsonl")} - files.keys()
        files |= {path: lines for path in others if (lines := _lines_that_hold(path, folder))}
        (judge_folder / CONTENTS).unlink(missing_ok=True)  # a kill in between leaves no record, not one of other files
        for path in {*judge_folder.glob("*.jsonl"), *others} - files.keys():
            path.unlink()
        for path, lines in files.items():
            write_lines(path, (json.dumps(line, ensure_ascii=False) for line in lines))
        record_contents(judge_folder, files)

    def _answer_lines(self, row: Row, text: str) -> list[dict[str, Any]]:
        answer = self.answer_to_judge(row, text)
        attempts: Attempts[Any]
        results: list[StepResult] = []
        if answer is None:
            attempts = self.steps(row.prompt)
        else:
            attempts = self.verdicts(answer)
            results = step_results(answer.steps, text, attempts.results)
        if attempts.missing:
            return []
        return [
            {
                "id": row.id,
                "answer": derived_id(row.prompt, text),
                "result": row_result(results),
                "stages": [step._asdict() for step in results],
                "replies": _without_costs(attempts.replies),
            }
        ]

    def _pair_lines(self, pair: AnswerPair) -> list[dict[str, Any]]:
        forward, swapped = (self.comparison(comparison) for comparison in pair.orders)
        if forward.missing or swapped.missing:
            return []
        orders = [forward.results[-1], swapped.results[-1]]
        replies = _without_costs([*forward.replies, *swapped.replies])
        shown = pair.orders[0]
        answers = [derived_id(shown.prompt, text) for text in (shown.first, shown.second)]
        line = {"id": pair.row_id, "answers": answers, "preferred": preference(*orders), "orders": orders}
        return [line | {"replies": replies}]


def iter_answers(folder: RunFolder) -> Iterator[tuple[str, Row, str]]:
    """System name, row and text of every answer of a run, row by row."""
    for row in folder.rows.values():
        for system, (_, answers) in folder.systems.items():
            if row.id in answers:
                yield system, row, answers[row.id]


def _lines_that_hold(path: Path, folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of a pair's file whose answers are those of the run; older lines do not say which they are about."""
    hashes = pair_hashes(path, answer_hashes(folder))
    return [line for line in read_judged_pairs(path) if line.get("answers", ()) == hashes.get(line["id"])]


def _without_costs(replies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{field: reply[field] for field in REPLY_FIELDS} for reply in replies]
