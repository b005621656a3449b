"""Asking a model for many replies in several stages: recorded, under one set of caps, and never twice for the same.

FOLDER/STAGE.jsonl     the replies of a stage; the files only grow
FOLDER/ledger.jsonl    every request: booked, settled, lost
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from prosg.llm.budget import Budget, Cost
from prosg.llm.client import Asker, Request, Shortfall
from prosg.llm.config import BudgetConfig, EndpointConfig
from prosg.utils.store import Log

__all__ = ["Asking", "bar"]

T = TypeVar("T")


class Asking:
    """The replies so far, by stage and by the request's id; `short`: what could not be had."""

    def __init__(self, folder: Path, stages: Sequence[str], caps: BudgetConfig) -> None:
        self.logs = {stage: Log(folder / f"{stage}.jsonl") for stage in stages}
        self.replies = {stage: {record["id"]: record for record in log.records} for stage, log in self.logs.items()}
        self.budget = Budget(caps, folder / "ledger.jsonl")
        recorded = {key: _cost(record) for replies in self.replies.values() for key, record in replies.items()}
        if lost := self.budget.recover(recorded):
            print(f"{lost} requests were under way when this was stopped; they are asked again", file=sys.stderr)
        # A client is made when the first request is: not every command comes to one.
        self.askers: dict[str, Asker] = {}
        self.short = Shortfall()

    async def all(
        self, what: str, stage: str, endpoint: EndpointConfig, jobs: Sequence[T], missing: Callable[[T], Request | None]
    ) -> None:
        """Ask until no job misses a reply, or a cap or a dead endpoint ends it. Jobs that miss the same are one.

        missing: the request that a job is to make next, as far as the replies go; None where it has all.
        """
        waiting = list({request.id: job for job in jobs if (request := missing(job)) is not None}.values())
        if not waiting:
            return
        asker = self._asker(stage, endpoint)

        async def work(job: T) -> None:
            while (request := missing(job)) is not None:
                self.replies[stage][request.id] = await asker.reply(stage, request, self.logs[stage])

        with bar(what, len(waiting)) as progress:
            short = await asker.all(waiting, work, progress.update)
        self.short.given_up += short.given_up
        self.short.reason = short.reason or self.short.reason
        self.short.cap = short.cap or self.short.cap

    def _asker(self, stage: str, endpoint: EndpointConfig) -> Asker:
        if stage not in self.askers:
            self.askers[stage] = Asker(endpoint, self.budget)
        if any(record["finish"] != "error" for record in self.replies[stage].values()):
            self.askers[stage].answered.add(stage)
        return self.askers[stage]

    def tell(self) -> int:
        """Say what was spent and what is missing; the exit status: 0, or 1 where something is."""
        requests, tokens, money = self.budget.spent
        outcomes = ", ".join(f"{number} {name}" for name, number in self.budget.outcomes.most_common())
        print(f"spent: {requests:,} requests ({outcomes or 'none'}), {tokens:,} tokens, {money:,.4f} money")
        if self.short.cap:
            print(f"stopped by {self.short.cap}; raise it and run the same command to go on", file=sys.stderr)
        if self.short.given_up:
            why = f"{self.short.given_up} requests met only failures (the last: {self.short.reason})"
            print(f"{why}; the same command asks again", file=sys.stderr)
        return 1 if self.short else 0

    def costs(self) -> dict[str, dict[str, int | float]]:
        """By stage: replies, tokens_in, tokens_out, money."""
        costs = {}
        for stage, replies in self.replies.items():
            sums = {name: sum(record[name] for record in replies.values()) for name in Cost._fields}
            costs[stage] = {"replies": len(replies), **sums, "money": round(sums["money"], 6)}
        return costs

    async def close(self) -> None:
        """Close connections and files."""
        for asker in self.askers.values():
            await asker.client.close()
        for log in (*self.logs.values(), self.budget.log):
            log.close()


def _cost(record: Mapping[str, Any]) -> Cost:
    return Cost(record["tokens_in"], record["tokens_out"], record["money"])


def bar(what: str, total: int, unit: str = "request") -> Any:
    """A progress bar, for a person who watches."""
    return tqdm(total=total, desc=what, unit=unit, disable=not sys.stderr.isatty(), leave=False)
