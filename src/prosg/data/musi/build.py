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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from tqdm import tqdm

from prosg.data.musi import answers, verify
from prosg.data.musi.budget import Budget, Cost
from prosg.data.musi.categories import Category, chosen_categories, domain_words
from prosg.data.musi.config import BuildConfig, load_config
from prosg.data.musi.endpoint import Asker, Request, Shortfall, need_key
from prosg.data.musi.estimate import estimate
from prosg.data.musi.filter import decide, evaluation_texts
from prosg.data.musi.prompts import Drafted, drafted, rounds
from prosg.data.musi.store import Log, locked, read_log
from prosg.data.musi.text import plain
from prosg.data.musi.verdicts import Verdict, tried
from prosg.data.record import Row, atomic_text, read_rows, write_rows

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
        self.logs = {name: Log(folder / f"{name}.jsonl") for name in STAGES[:4]}
        self.replies = {name: {r["id"]: r for r in self.logs[name].records} for name in ASKING}
        self.budget = Budget(config.budget, folder / "ledger.jsonl")
        recorded = {key: _cost(record) for replies in self.replies.values() for key, record in replies.items()}
        if lost := self.budget.recover(recorded):
            print(f"{lost} requests were under way when the build was stopped; they are asked again", file=sys.stderr)
        # A client is made when the first request is: filter and export need none.
        self.askers: dict[str, Asker] = {}
        self.short = Shortfall()

    async def run(self, stages: Sequence[str]) -> int:
        """Run the stages; a cap ends the asking, and what is verified by then is exported."""
        for stage in stages:
            if self.short.cap and not (stage == "export" and self._anything_verified()):
                continue
            await getattr(self, f"_{stage}")()
        self._tell_costs()
        if self.short.cap:
            print(f"stopped by {self.short.cap}; raise it and run the same command to go on", file=sys.stderr)
        if self.short.given_up:
            why = f"{self.short.given_up} requests met only failures (the last: {self.short.reason})"
            print(f"{why}; the same command asks again", file=sys.stderr)
        return 1 if self.short else 0

    async def close(self) -> None:
        """Close connections and files."""
        for asker in self.askers.values():
            await asker.client.close()
        for log in (*self.logs.values(), self.budget.log):
            log.close()

    def _anything_verified(self) -> bool:
        path = self.config.folder / "verified.jsonl"
        return path.exists() and path.stat().st_size > 0

    def _asker(self, stage: str) -> Asker:
        name = "judge" if stage == "verify" else "model"
        if name not in self.askers:
            self.askers[name] = Asker(self.config.judge if name == "judge" else self.config.endpoint, self.budget)
        if any(record["finish"] != "error" for record in self.replies[stage].values()):
            self.askers[name].answered.add(stage)
        return self.askers[name]

    async def _ask(self, stage: str, request: Request, asker: Asker) -> None:
        self.replies[stage][request.id] = await asker.reply(stage, request, self.logs[stage])

    def _add(self, short: Shortfall) -> None:
        self.short.given_up += short.given_up
        self.short.reason = short.reason or self.short.reason
        self.short.cap = short.cap or self.short.cap

    # -- the stages

    async def _prompts(self) -> None:
        asker = self._asker("prompts")
        asked: list[tuple[str, Request]] = []
        for number, more in enumerate(rounds(self.config, self.categories, self.replies["prompts"]), 1):
            asked += more
            missing = [request for _, request in more if request.id not in self.replies["prompts"]]
            with _bar(f"prompts, round {number}", len(missing)) as bar:
                self._add(await asker.all(missing, lambda one: self._ask("prompts", one, asker), bar.update))
            if self.short.cap:
                break
        found = drafted(asked, self.replies["prompts"])
        good = {plain(one.draft.prompt) for one in found if one.draft}
        print(f"prompts: {len(good)} instructions{_left_out(one.fault for one in found if not one.draft)}")
        if len(good) < self.config.prompts.count and not self.short:
            print(f"fewer than the {self.config.prompts.count} wanted; prompts.rounds allows no more", file=sys.stderr)

    def _drafted(self) -> list[Drafted]:
        asked = [one for more in rounds(self.config, self.categories, self.replies["prompts"]) for one in more]
        return drafted(asked, self.replies["prompts"])

    def _decisions(self) -> list[dict[str, Any]]:
        found = self._drafted()
        with _bar("filter", len(found), "prompt") as bar:
            return decide(self.config, self.categories, found, self.logs["filter"], bar.update)

    async def _filter(self) -> None:
        decisions = self._decisions()
        dropped = [one["reason"] for one in decisions if not one["kept"]]
        print(f"filter: {len(decisions) - len(dropped)} of {len(decisions)} kept{_left_out(dropped)}")

    def _asked(self) -> list[answers.Asked]:
        return answers.requests(self.config, self._decisions())

    async def _answers(self) -> None:
        asker = self._asker("answers")
        asked = self._asked()
        missing = [one.request for one in asked if one.request.id not in self.replies["answers"]]
        with _bar("answers", len(missing)) as bar:
            self._add(await asker.all(missing, lambda one: self._ask("answers", one, asker), bar.update))
        print(f"answers: {sum(one.request.id in self.replies['answers'] for one in asked)} of {len(asked)}")

    def _judged(self, asked: answers.Asked) -> tuple[list[list[Verdict] | str], Request | None]:
        """What came of asking the judge so far, and the request that is still to be made."""
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
            asker = self._asker("verify")

            async def judge(one: answers.Asked) -> None:
                while (request := self._judged(one)[1]) is not None:
                    await self._ask("verify", request, asker)

            with _bar("verify", len(fine)) as bar:
                self._add(await asker.all([one for one in fine if self._judged(one)[1]], judge, bar.update))
        results = [self._conclude(one) for one in answered]
        rows = [one for one in results if isinstance(one, Row)]
        rejected = [one for one in results if isinstance(one, verify.Rejected)]
        write_rows(self.config.folder / "verified.jsonl", rows)
        lines = (json.dumps(one.to_dict(), ensure_ascii=False) for one in rejected)
        atomic_text(self.config.folder / "rejected.jsonl", lines)
        staged = sum(bool(row.stages) for row in rows)
        reasons = _left_out(one.reasons[0] for one in rejected)
        print(f"verify: {len(rows)} of {len(answered)} pairs passed, {staged} with stages{reasons}")

    def _conclude(self, one: answers.Asked) -> Row | verify.Rejected | None:
        """The row, the reject, or None while the judge has not been asked."""
        reply = self.replies["answers"][one.request.id]
        if not self.config.verify.judge or verify.fault(one, reply):
            return verify.conclude(one, reply, [], judge=self.config.verify.judge)
        judged, missing = self._judged(one)
        return None if missing else verify.conclude(one, reply, judged)

    async def _export(self) -> None:
        from prosg.data.musi.export import export

        path = self.config.folder / "verified.jsonl"
        if not path.exists():
            raise ValueError(f"{path}: is not there; run the stage verify first")
        if not self._anything_verified():
            raise ValueError(f"{path}: no pair passed; rejected.jsonl and filter.jsonl beside it say why")
        rows = read_rows(path)
        rejects = read_log(self.config.folder / "rejected.jsonl")
        reasons = Counter(f"instruction: {_kind(one['reason'])}" for one in self._decisions() if not one["kept"])
        reasons += Counter(f"answer: {_kind(one['reasons'][0])}" for one in rejects)
        with _bar("export", len(rows), "row") as bar:
            sizes = export(self.config, rows, self._costs(), reasons, tell=bar.update)
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        print(f"export: {self.config.folder / 'export'}: {told}")

    # -- costs

    def _costs(self) -> dict[str, dict[str, int | float]]:
        costs = {}
        for stage in ASKING:
            records = list(self.replies[stage].values())
            sums = {name: sum(record[name] for record in records) for name in Cost._fields}
            costs[stage] = {"replies": len(records), **sums, "money": round(sums["money"], 6)}
        return costs

    def _tell_costs(self) -> None:
        requests, tokens, money = self.budget.spent
        outcomes = ", ".join(f"{number} {name}" for name, number in self.budget.outcomes.most_common())
        print(f"spent: {requests:,} requests ({outcomes or 'none'}), {tokens:,} tokens, {money:,.4f} money")


def _cost(record: Mapping[str, Any]) -> Cost:
    return Cost(record["tokens_in"], record["tokens_out"], record["money"])


def _kind(reason: str) -> str:
    """A reason without what differs from row to row."""
    return "step not followed" if reason.endswith("not followed") else reason.partition(":")[0].partition(" (")[0]


def _left_out(reasons: Iterable[str]) -> str:
    counts = Counter(_kind(reason) for reason in reasons)
    return "".join(f"; {number} {reason}" for reason, number in counts.most_common())


def _bar(what: str, total: int, unit: str = "request") -> Any:
    return tqdm(total=total, desc=what, unit=unit, disable=not sys.stderr.isatty(), leave=False)
