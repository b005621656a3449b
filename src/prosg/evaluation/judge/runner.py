"""`prosg judge`: asks a judge about the answers of evaluations, and writes what it said beside them.

    RUN/judge/NAME.jsonl         a system's answers: {"id", "answer": a hash of prompt and answer, "result", "stages":
                                 [{"stage", "instruction", "result", "quote", "why"}], "replies"}
    RUN/judge/pairs/A--B.jsonl   two systems': {"id", "preferred": "first" (A) | "second" (B) | "tie" | "unparsed",
                                 "orders": what was said with A first, and with B first, "replies"}
    OUT/{steps,verdicts,comparison}.jsonl, OUT/ledger.jsonl     every reply as it came, and every request

Both kinds of files in RUN follow from the replies in OUT and are written whole. Stopped anywhere and started again, the
command goes on, and asks nothing twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prosg.data.row import Row, derived_id
from prosg.evaluation.judge.agreement import Label, agreement, read_labels
from prosg.evaluation.judge.protocol import (
    UNPARSED,
    JudgeConfig,
    Step,
    comparison_request,
    known_steps,
    preference,
    read_comparison,
    read_stages,
    read_steps,
    row_result,
    stage_results,
    stages_request,
    steps_request,
)
from prosg.evaluation.judge.summary import agreement_text, judged_steps, summary_text
from prosg.evaluation.run_folder import RunFolder, read_run
from prosg.llm.client import need_key
from prosg.llm.ledger import Asking
from prosg.musi.verdicts import Tried, Verdict, tried
from prosg.utils.io import write_lines
from prosg.utils.store import locked

__all__ = ["judge_runs"]

STAGES = ("steps", "verdicts", "comparison")
SHOWN = ("id", "reply", "finish", "refusal", "model")
"""what the files in a run keep of a reply"""


class _Answer(NamedTuple):
    """An answer to judge. It may be another system's, too: then it is judged once."""

    prompt: str
    steps: tuple[Step, ...]
    text: str


class _Comparison(NamedTuple):
    prompt: str
    first: str
    second: str


class _Pair(NamedTuple):
    """Two systems' answers to one row, in both orders."""

    name: str
    row: str
    orders: tuple[_Comparison, _Comparison]

    @property
    def alike(self) -> bool:
        """Whether there is nothing to compare."""
        return self.orders[0].first == self.orders[0].second


def judge_runs(runs: Sequence[str | Path], config: JudgeConfig, labels: str | Path | None = None) -> int:
    """Judge all answers of the runs and print tables; 0, or 1 where replies are missing (a cap, a dead server).

    labels: a file of people's labels to compare the judge with. ValueError, before the first request, for what is wrong
    with the folders, the labels, the pairs and the key.
    """
    folders = [read_run(run) for run in runs]
    people = {} if labels is None else read_labels(labels)
    _check(folders, config, people, labels)
    need_key("endpoint", config.endpoint)
    with locked(Path(config.out)):
        status = asyncio.run(_run(folders, config))
    for folder in folders:
        print(f"\n{folder.path}\n\n{summary_text(folder.path)}")
    if people:
        judged = {step: said for folder in folders for step, said in judged_steps(folder.path).items()}
        print(f"\n{labels}: {agreement_text(agreement(judged, people))}")
    return status


def _check(
    folders: Sequence[RunFolder], config: JudgeConfig, people: Mapping[Label, bool], labels: str | Path | None
) -> None:
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice")
    known = {name for folder in folders for name in folder.systems}
    for name in [name for pair in config.pairs for name in pair]:
        if name not in known:
            raise ValueError(f"pairs names the system {name}; the runs have {', '.join(sorted(known))}")
    for one in people:
        having = [f for f in folders if one.system in f.systems and one.id in f.systems[one.system].answers]
        if len(having) != 1:
            where = "no run has" if not having else "more than one run has"
            raise ValueError(f"{labels}: {where} an answer of {one.system!r} to {one.id!r}")


async def _run(folders: Sequence[RunFolder], config: JudgeConfig) -> int:
    judging = _Judging(config)
    try:
        await judging.ask(folders)
        for folder in folders:
            judging.write(folder)
        return judging.asking.tell()
    finally:
        await judging.asking.close()


class _Judging:
    """The replies so far, and what follows from them."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self.asking = Asking(Path(config.out), STAGES, config.budget)
        self.replies = self.asking.replies

    async def ask(self, folders: Sequence[RunFolder]) -> None:
        """Ask all that is missing, until a cap ends it."""
        endpoint = self.config.endpoint
        answered = [(row, text) for folder in folders for _, row, text in _answers(folder)]
        prompts = [row.prompt for row, _ in answered if not known_steps(row)]
        await self.asking.all("steps", "steps", endpoint, prompts, lambda one: self._steps_asked(one).missing)
        answers = [one for row, text in answered if (one := self._answer(row, text)) and one.text.strip()]
        if not self.asking.short.cap:
            await self.asking.all("verdicts", "verdicts", endpoint, answers, lambda one: self._judged(one).missing)
        orders = [one for folder in folders for pair in self._pairs(folder) for one in pair.orders if not pair.alike]
        if not self.asking.short.cap:
            await self.asking.all("comparison", "comparison", endpoint, orders, lambda one: self._compared(one).missing)

    # -- what the replies say

    def _steps_asked(self, prompt: str) -> Tried[list[Step] | str]:
        return tried(
            lambda attempt: steps_request(self.config, prompt, attempt),
            read_steps,
            lambda steps: not isinstance(steps, str),
            self.config.tries,
            self.replies["steps"],
        )

    def _judged(self, one: _Answer) -> Tried[list[Verdict | str]]:
        return tried(
            lambda attempt: stages_request(self.config, one.prompt, one.steps, one.text, attempt),
            lambda reply: read_stages(reply, one.steps, one.text),
            lambda verdicts: all(isinstance(verdict, Verdict) for verdict in verdicts),
            self.config.tries,
            self.replies["verdicts"],
        )

    def _compared(self, one: _Comparison) -> Tried[str]:
        return tried(
            lambda attempt: comparison_request(self.config, one.prompt, one.first, one.second, attempt),
            read_comparison,
            lambda said: said != UNPARSED,
            self.config.tries,
            self.replies["comparison"],
        )

    def _answer(self, row: Row, text: str) -> _Answer | None:
        """The answer with its row's steps; None where these are not known (yet)."""
        steps: Sequence[Step] | str = known_steps(row)
        if not steps:
            asked = self._steps_asked(row.prompt)
            steps = asked.said[-1] if asked.said else ""
        return None if not steps or isinstance(steps, str) else _Answer(row.prompt, tuple(steps), text)

    def _pairs(self, folder: RunFolder) -> list[_Pair]:
        """The rows of a run that both systems of a pair answered."""
        found = []
        for first, second in self.config.pairs:
            ours, theirs = (folder.systems[name].answers if name in folder.systems else {} for name in (first, second))
            for name, row in folder.rows.items():
                if name in ours and name in theirs:
                    there = _Comparison(row.prompt, ours[name], theirs[name])
                    back = _Comparison(row.prompt, theirs[name], ours[name])
                    found.append(_Pair(f"{first}--{second}", name, (there, back)))
        return found

    # -- files

    def write(self, folder: RunFolder) -> None:
        """Write what the judge said of a run: answers and pairs for which no reply is missing."""
        systems: dict[str, list[dict[str, Any]]] = {name: [] for name in folder.systems}
        for name, row, text in _answers(folder):
            systems[name] += self._answer_line(row, text)
        for name, lines in systems.items():
            _write(folder.path / "judge" / f"{name}.jsonl", lines)
        pairs: dict[str, list[dict[str, Any]]] = {}
        for pair in self._pairs(folder):
            pairs.setdefault(pair.name, []).extend(self._pair_line(pair))
        for name, lines in pairs.items():
            _write(folder.path / "judge" / "pairs" / f"{name}.jsonl", lines)

    def _answer_line(self, row: Row, text: str) -> list[dict[str, Any]]:
        """The line of an answer; none while a reply is missing."""
        one = self._answer(row, text)
        if one is None:
            asked = self._steps_asked(row.prompt)
            line = {"id": row.id, "answer": derived_id(row.prompt, text), "result": UNPARSED, "stages": []}
            return [] if asked.missing else [line | {"replies": _shown(asked.replies)}]
        judged = self._judged(one) if text.strip() else Tried[list[Verdict | str]]([], [], None)
        results = stage_results(one.steps, text, judged.said)
        line = {"id": row.id, "answer": derived_id(row.prompt, text), "result": row_result(results)}
        stages = [stage._asdict() for stage in results]
        return [] if judged.missing else [line | {"stages": stages, "replies": _shown(judged.replies)}]

    def _pair_line(self, pair: _Pair) -> list[dict[str, Any]]:
        """The line of a pair; none while a reply is missing."""
        if pair.alike:
            return [{"id": pair.row, "preferred": "tie", "orders": ["tie", "tie"], "replies": []}]
        there, back = (self._compared(one) for one in pair.orders)
        if there.missing or back.missing:
            return []
        said = [there.said[-1], back.said[-1]]
        replies = _shown([*there.replies, *back.replies])
        return [{"id": pair.row, "preferred": preference(said[0], said[1]), "orders": said, "replies": replies}]


def _answers(folder: RunFolder) -> Iterator[tuple[str, Row, str]]:
    """System, row and answer of all answers, row by row."""
    for name, row in folder.rows.items():
        for system, (_, answers) in folder.systems.items():
            if name in answers:
                yield system, row, answers[name]


def _shown(replies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: reply[key] for key in SHOWN} for reply in replies]


def _write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    write_lines(path, (json.dumps(line, ensure_ascii=False) for line in lines))
