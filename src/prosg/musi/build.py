"""`prosg data build`: the five stages in a row. Each can be resumed, and run by itself.

    OUT/prompts.jsonl   1. replies with instructions    OUT/ledger.jsonl    every request: booked, settled, lost
    OUT/filter.jsonl    2. decisions                    OUT/verified.jsonl  rows that passed, rewritten by stage 4
    OUT/answers.jsonl   3. replies                      OUT/rejected.jsonl  pairs that did not, likewise
    OUT/verify.jsonl    4. the judge's replies          OUT/export/         the data set, rewritten by stage 5

The files of replies and decisions only grow. A stage depends on the configuration and on the records of the stages
before it, never on time: a build that is interrupted anywhere and started again ends with the same rows.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from prosg.data.row import Row, read_rows, write_rows
from prosg.llm.completion import ChatRequest
from prosg.llm.config import require_key
from prosg.llm.request_log import RequestLog
from prosg.musi.answers import AnswerRequest, answer_requests
from prosg.musi.categories import Category, chosen_categories, domain_words
from prosg.musi.config import BuildConfig, load_config
from prosg.musi.estimate import estimate_table
from prosg.musi.export import EXPORT_FOLDER, export
from prosg.musi.filter import evaluation_texts, filter_instructions
from prosg.musi.prompts import PromptRequest, drafted_instructions, request_rounds
from prosg.musi.reasons import kind_of, reasons_text, rejection_reasons
from prosg.musi.text import plain
from prosg.musi.verify import RejectedPair, judge_attempts, verify_pair, visible_fault
from prosg.utils.extras import missing_extra
from prosg.utils.io import write_lines
from prosg.utils.locks import locked
from prosg.utils.progress import progress_bar
from prosg.utils.replaceable import check_replaceable
from prosg.utils.spelling import check_known
from prosg.utils.store import Log

__all__ = ["STAGES", "build"]

STAGES = ("prompts", "filter", "answers", "verify", "export")
REQUESTING_STAGES = ("prompts", "answers", "verify")
PACKAGES = {"filter": ("rapidfuzz",), "export": ("rapidfuzz", "pyarrow")} | dict.fromkeys(
    REQUESTING_STAGES, ("httpx", "tenacity")
)


def build(file: str, *, stages: Sequence[str] = STAGES, dry_run: bool = False, out: str | None = None) -> int:
    """Runs stages of a build and prints what each has done.

    Args:
        file: The configuration.
        stages: Names of the stages.
        dry_run: Print an estimate of the stages' cost, and send no request.
        out: Another folder than the configuration's.

    Returns:
        0, or 1 where replies are missing in the end (a cap was reached, or the server failed); then the same call
        continues.

    Raises:
        ValueError: before the first request, for faults of the configuration and of the files that it names.
        FileExistsError: likewise, for something in the place of its own files that may not be replaced.
    """
    check_known("--stages", stages, STAGES)
    if not stages:
        raise ValueError(f"--stages names none; allowed: {', '.join(STAGES)}, and without the option all of them")
    config = load_config(file, out)
    chosen = [name for name in STAGES if name in stages]
    try:
        categories = _check_files(config)
        if not dry_run:
            _check_keys(config, chosen)
            _check_packages(chosen)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if dry_run:
        print(estimate_table(config, categories, chosen))
        return 0
    with locked(config.folder):
        for name in ("verified.jsonl", "rejected.jsonl"):
            check_replaceable(config.folder / name, overwrite=True)
        check_replaceable(config.folder / "export", overwrite=True, kind=EXPORT_FOLDER)
        return asyncio.run(_run(config, categories, chosen))


def _check_files(config: BuildConfig) -> list[Category]:
    categories = chosen_categories(config.prompts)
    for name in config.filter.decontaminate:
        evaluation_texts(name)
    domain_words("en", config.filter.domain_words)
    return categories


def _check_keys(config: BuildConfig, stages: Sequence[str]) -> None:
    endpoints = {"endpoint": config.endpoint} if {"prompts", "answers"} & {*stages} else {}
    if "verify" in stages and config.verify.judge:
        endpoints["verify.endpoint"] = config.judge
    for name, endpoint in endpoints.items():
        require_key(name, endpoint)


def _check_packages(stages: Sequence[str]) -> None:
    packages = {package for stage in stages for package in PACKAGES[stage]}
    if missing := sorted(name for name in packages if find_spec(name) is None):
        raise missing_extra("a build", "data", ", ".join(missing))


async def _run(config: BuildConfig, categories: Sequence[Category], stages: Sequence[str]) -> int:
    build = _Build(config, categories)
    try:
        return await build.run(stages)
    finally:
        await build.close()


class _Build:
    """The open files of a build, and its stages."""

    def __init__(self, config: BuildConfig, categories: Sequence[Category]) -> None:
        self.config, self.categories = config, categories
        folder = config.folder
        self.verified, self.rejected = folder / "verified.jsonl", folder / "rejected.jsonl"
        for name in ("export", self.verified.name, self.rejected.name):  # left by a process killed while writing
            for leftover in folder.glob(f".{name}.*"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        self.log = RequestLog(folder, REQUESTING_STAGES, config.budget)
        self.replies = self.log.replies
        self.decisions = Log(folder / "filter.jsonl")
        self.judges_later = False

    async def run(self, stages: Sequence[str]) -> int:
        """Runs stages. A cap ends the requests, but what is verified by then is exported. Returns the exit status.

        Where replies are missing and nothing is verified, it is they that the summary reports, not that no pair passed.
        """
        run_stage = {
            "prompts": self._prompts,
            "filter": self._filter,
            "answers": self._answers,
            "verify": self._verify,
            "export": self._export,
        }
        self.judges_later = self.config.verify.judge and "verify" in stages
        for stage in stages:
            wanting = self.log.shortfall if stage == "export" else self.log.shortfall.cap
            if not wanting or (stage == "export" and self._anything_verified()):
                await run_stage[stage]()
        return self.log.print_summary()

    async def close(self) -> None:
        """Closes connections and files."""
        await self.log.close()
        self.decisions.close()

    async def _prompts(self) -> None:
        requested: list[PromptRequest] = []
        for number, new in enumerate(request_rounds(self.config, self.categories, self.replies["prompts"]), 1):
            requested += new
            await self._request_all("prompts", [item.request for item in new], f"prompts, round {number}")
            if self.log.shortfall:  # a further round would make up for replies that the next run gets
                break
        instructions = drafted_instructions(requested, self.replies["prompts"])
        different = {plain(item.draft.prompt) for item in instructions if item.draft}
        print(f"prompts: {len(different)} instructions{reasons_text(i.fault for i in instructions if not i.draft)}")
        if len(different) < self.config.prompts.count and not self.log.shortfall:
            print(f"fewer than the {self.config.prompts.count} wanted; prompts.rounds allows no more", file=sys.stderr)

    async def _request_all(self, stage: str, requests: Sequence[ChatRequest], description: str) -> None:
        """Sends the requests that have no reply yet."""
        replies = self.replies[stage]
        await self.log.request_all(
            description, stage, self.config.endpoint, requests, lambda r: None if r.id in replies else r
        )

    def _filtered(self) -> list[dict[str, Any]]:
        """The filter's decisions on all instructions so far, made and recorded where there are none yet."""
        rounds = request_rounds(self.config, self.categories, self.replies["prompts"])
        requested = [item for new in rounds for item in new]
        instructions = drafted_instructions(requested, self.replies["prompts"])
        with progress_bar("filter", len(instructions), "prompt") as bar:
            return filter_instructions(self.config, self.categories, instructions, self.decisions, bar.update)

    async def _filter(self) -> None:
        decisions = self._filtered()
        dropped = [decision["reason"] for decision in decisions if not decision["kept"]]
        print(f"filter: {len(decisions) - len(dropped)} of {len(decisions)} kept{reasons_text(dropped)}")

    async def _answers(self) -> None:
        requests = answer_requests(self.config, self._filtered())
        if self.judges_later:
            await self._judge_one(requests)
        if not self.log.shortfall.cap:
            await self._request_all("answers", [item.request for item in requests], "answers")
        print(f"answers: {sum(item.request.id in self.replies['answers'] for item in requests)} of {len(requests)}")

    async def _judge_one(self, requests: Sequence[AnswerRequest]) -> None:
        """Has one answer judged, so that a judge that cannot be used is found out before the others are paid for."""
        for item in requests:
            await self._request_all("answers", [item.request], "the first answer")
            reply = self.replies["answers"].get(item.request.id)
            if reply is None:
                return
            if not visible_fault(item, reply):
                await self._request_verdicts([item])
                return

    async def _request_verdicts(self, answered: Sequence[AnswerRequest]) -> None:
        await self.log.request_all("verify", "verify", self.config.judge, answered, self._next_judge_request)

    async def _verify(self) -> None:
        answers = self.replies["answers"]
        answered = [r for r in answer_requests(self.config, self._filtered()) if r.request.id in answers]
        if self.config.verify.judge:
            flawless = [item for item in answered if not visible_fault(item, answers[item.request.id])]
            await self._request_verdicts(flawless)
        results = [self._verdict(item) for item in answered]
        rows = [result for result in results if isinstance(result, Row)]
        rejected = [result for result in results if isinstance(result, RejectedPair)]
        write_rows(self.verified, rows)
        write_lines(self.rejected, (json.dumps(pair.to_dict(), ensure_ascii=False) for pair in rejected))
        staged = sum(bool(row.stages) for row in rows)
        reasons = reasons_text(pair.reasons[0] for pair in rejected)
        print(f"verify: {len(rows)} of {len(answered)} pairs passed, {staged} with stages{reasons}")

    def _next_judge_request(self, request: AnswerRequest) -> ChatRequest | None:
        reply = self.replies["answers"][request.request.id]
        return judge_attempts(self.config, request, reply, self.replies["verify"]).missing

    def _verdict(self, request: AnswerRequest) -> Row | RejectedPair | None:
        """The row, the rejected pair, or None while the judge has not replied."""
        reply = self.replies["answers"][request.request.id]
        if not self.config.verify.judge:
            return verify_pair(request, reply, None)
        if visible_fault(request, reply):
            return verify_pair(request, reply, [])
        attempts = judge_attempts(self.config, request, reply, self.replies["verify"])
        return None if attempts.missing else verify_pair(request, reply, attempts.results)

    def _anything_verified(self) -> bool:
        return self.verified.exists() and self.verified.stat().st_size > 0

    async def _export(self) -> None:
        if not self.verified.exists():
            raise ValueError(f"{self.verified}: is not there; run the stage verify first")
        if not self._anything_verified():
            raise ValueError(f"{self.verified}: no pair passed; rejected.jsonl and filter.jsonl beside it say why")
        rows = read_rows(self.verified)
        dropped = [decision for decision in self._filtered() if not decision["kept"]]
        reasons = Counter(f"instruction: {kind_of(decision['reason'])}" for decision in dropped)
        reasons += Counter(f"answer: {kind_of(reason)}" for reason in rejection_reasons(self.rejected))
        with progress_bar("export", len(rows), "row") as bar:
            sizes = export(self.config, rows, self.log.costs(), reasons, on_progress=bar.update)
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        print(f"export: {self.config.folder / 'export'}: {listed}")
