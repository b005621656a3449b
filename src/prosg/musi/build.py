"""`prosg data build`: the five stages in a row, each resumable and each to be run alone.

    OUT/prompts.jsonl   1. replies with instructions    OUT/ledger.jsonl    every request: booked, settled, lost
    OUT/filter.jsonl    2. decisions                    OUT/verified.jsonl  rows that passed, written whole by stage 4
    OUT/answers.jsonl   3. replies                      OUT/rejected.jsonl  pairs that did not, likewise
    OUT/verify.jsonl    4. the judge's replies          OUT/export/         the data set, written whole by stage 5

The files of replies and decisions only grow. What a stage does follows from the configuration and from what the stages
before recorded, never from when things happened: stopped anywhere and started again, a build ends with the same rows.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from prosg.data.row import Row, read_rows, write_rows
from prosg.llm.client import Request, need_key
from prosg.llm.ledger import Asking, bar
from prosg.musi import answers, verify
from prosg.musi.categories import Category, chosen_categories, domain_words
from prosg.musi.config import BuildConfig, load_config
from prosg.musi.estimate import estimate
from prosg.musi.filter import decide, evaluation_texts
from prosg.musi.prompts import Drafted, drafted, rounds
from prosg.musi.text import plain
from prosg.musi.verdicts import Tried, Verdict, tried
from prosg.utils.io import write_lines
from prosg.utils.store import Log, locked, read_log

__all__ = ["STAGES", "build"]

STAGES = ("prompts", "filter", "answers", "verify", "export")
ASKING = ("prompts", "answers", "verify")
NEEDS = {"prompts": ("openai", "tenacity"), "filter": ("rapidfuzz",), "export": ("rapidfuzz", "pyarrow")}


def build(file: str, *, stages: Sequence[str] = STAGES, dry_run: bool = False, out: str | None = None) -> int:
    """Run stages of a build; 0 where all that was wanted is there, 1 where replies are missing (a cap, a dead server).

    ValueError, before the first request, for whatever is wrong with the configuration and the files that it names.
    """
    config = load_config(file)
    if out:
        config = replace(config, out=out)
    if unknown := [name for name in stages if name not in STAGES]:
        raise ValueError(f"--stages has {', '.join(unknown)}; allowed: {', '.join(STAGES)}")
    chosen = [name for name in STAGES if name in stages]
    try:
        categories = _check_files(config)
        if not dry_run:
            _check_keys(config, chosen)
            _check_packages(chosen)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if dry_run:
        print(estimate(config, categories))
        return 0
    with locked(config.folder):
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
        need_key(name, endpoint)


def _check_packages(stages: Sequence[str]) -> None:
    wanted = {package for stage in stages for package in NEEDS["prompts" if stage in ASKING else stage]}
    if missing := sorted(name for name in wanted if find_spec(name) is None):
        raise ValueError(f"a build needs the packages {', '.join(missing)}: pip install 'prosg[data]'")


async def _run(config: BuildConfig, categories: Sequence[Category], stages: Sequence[str]) -> int:
    build = _Build(config, categories)
    try:
        return await build.run(stages)
    finally:
        await build.close()


class _Build:
    """The files of a build, open, and what follows from them."""

    def __init__(self, config: BuildConfig, categories: Sequence[Category]) -> None:
        self.config, self.categories = config, categories
        folder = config.folder
        for name in ("export", "verified.jsonl", "rejected.jsonl"):  # what a kill in the middle of a write left
            for left in folder.glob(f".{name}.*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.asking = Asking(folder, ASKING, config.budget)
        self.replies = self.asking.replies
        self.decided = Log(folder / "filter.jsonl")

    async def run(self, stages: Sequence[str]) -> int:
        """Run the stages; a cap ends the asking, and what is verified by then is exported."""
        for stage in stages:
            if self.asking.short.cap and not (stage == "export" and self._anything_verified()):
                continue
            await getattr(self, f"_{stage}")()
        return self.asking.tell()

    async def close(self) -> None:
        """Close connections and files."""
        await self.asking.close()
        self.decided.close()

    def _anything_verified(self) -> bool:
        path = self.config.folder / "verified.jsonl"
        return path.exists() and path.stat().st_size > 0

    def _missing(self, stage: str, request: Request) -> Request | None:
        return None if request.id in self.replies[stage] else request

    # -- the stages

    async def _prompts(self) -> None:
        asked: list[tuple[str, Request]] = []
        for number, more in enumerate(rounds(self.config, self.categories, self.replies["prompts"]), 1):
            asked += more
            wanted = [request for _, request in more]
            what = f"prompts, round {number}"
            await self.asking.all(what, "prompts", self.config.endpoint, wanted, partial(self._missing, "prompts"))
            if self.asking.short.cap:
                break
        found = drafted(asked, self.replies["prompts"])
        good = {plain(one.draft.prompt) for one in found if one.draft}
        print(f"prompts: {len(good)} instructions{_left_out(one.fault for one in found if not one.draft)}")
        if len(good) < self.config.prompts.count and not self.asking.short:
            print(f"fewer than the {self.config.prompts.count} wanted; prompts.rounds allows no more", file=sys.stderr)

    def _drafted(self) -> list[Drafted]:
        asked = [one for more in rounds(self.config, self.categories, self.replies["prompts"]) for one in more]
        return drafted(asked, self.replies["prompts"])

    def _decisions(self) -> list[dict[str, Any]]:
        found = self._drafted()
        with bar("filter", len(found), "prompt") as progress:
            return decide(self.config, self.categories, found, self.decided, progress.update)

    async def _filter(self) -> None:
        decisions = self._decisions()
        dropped = [one["reason"] for one in decisions if not one["kept"]]
        print(f"filter: {len(decisions) - len(dropped)} of {len(decisions)} kept{_left_out(dropped)}")

    def _asked(self) -> list[answers.Asked]:
        return answers.requests(self.config, self._decisions())

    async def _answers(self) -> None:
        asked = self._asked()
        wanted = [one.request for one in asked]
        await self.asking.all("answers", "answers", self.config.endpoint, wanted, partial(self._missing, "answers"))
        print(f"answers: {sum(one.request.id in self.replies['answers'] for one in asked)} of {len(asked)}")

    def _judged(self, asked: answers.Asked) -> Tried[list[Verdict] | str]:
        """What came of asking the judge so far."""
        answer = self.replies["answers"][asked.request.id]["reply"].strip()
        steps = len(asked.prompt["sub_instructions"])
        return tried(
            lambda attempt: verify.judge_request(self.config, asked, answer, attempt),
            lambda reply: verify.verdicts(reply, steps, answer),
            lambda judged: not isinstance(judged, str),
            self.config.verify.tries,
            self.replies["verify"],
        )

    async def _verify(self) -> None:
        answered = [one for one in self._asked() if one.request.id in self.replies["answers"]]
        fine = [one for one in answered if not verify.fault(one, self.replies["answers"][one.request.id])]
        if self.config.verify.judge:
            await self.asking.all("verify", "verify", self.config.judge, fine, lambda one: self._judged(one).missing)
        results = [self._conclude(one) for one in answered]
        rows = [one for one in results if isinstance(one, Row)]
        rejected = [one for one in results if isinstance(one, verify.Rejected)]
        write_rows(self.config.folder / "verified.jsonl", rows)
        lines = (json.dumps(one.to_dict(), ensure_ascii=False) for one in rejected)
        write_lines(self.config.folder / "rejected.jsonl", lines)
        staged = sum(bool(row.stages) for row in rows)
        reasons = _left_out(one.reasons[0] for one in rejected)
        print(f"verify: {len(rows)} of {len(answered)} pairs passed, {staged} with stages{reasons}")

    def _conclude(self, one: answers.Asked) -> Row | verify.Rejected | None:
        """The row, the reject, or None while the judge has not been asked."""
        reply = self.replies["answers"][one.request.id]
        if not self.config.verify.judge or verify.fault(one, reply):
            return verify.conclude(one, reply, [], judge=self.config.verify.judge)
        judged = self._judged(one)
        return None if judged.missing else verify.conclude(one, reply, judged.said)

    async def _export(self) -> None:
        from prosg.musi.export import export

        path = self.config.folder / "verified.jsonl"
        if not path.exists():
            raise ValueError(f"{path}: is not there; run the stage verify first")
        if not self._anything_verified():
            raise ValueError(f"{path}: no pair passed; rejected.jsonl and filter.jsonl beside it say why")
        rows = read_rows(path)
        rejects = read_log(self.config.folder / "rejected.jsonl")
        reasons = Counter(f"instruction: {_kind(one['reason'])}" for one in self._decisions() if not one["kept"])
        reasons += Counter(f"answer: {_kind(one['reasons'][0])}" for one in rejects)
        with bar("export", len(rows), "row") as progress:
            sizes = export(self.config, rows, self.asking.costs(), reasons, tell=progress.update)
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        print(f"export: {self.config.folder / 'export'}: {told}")


def _kind(reason: str) -> str:
    """A reason without what differs from row to row."""
    return "step not followed" if reason.endswith("not followed") else reason.partition(":")[0].partition(" (")[0]


def _left_out(reasons: Iterable[str]) -> str:
    counts = Counter(_kind(reason) for reason in reasons)
    return "".join(f"; {number} {reason}" for reason, number in counts.most_common())
