"""The recorded replies of several stages, requested under one budget; no request with a recorded reply is sent again.

FOLDER/STAGE.jsonl     the replies of a stage; the files only grow
FOLDER/ledger.jsonl    every request: booked, settled, lost
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from prosg.llm.budget import LEDGER, Budget, Cost
from prosg.llm.client import EndpointClient, Shortfall
from prosg.llm.completion import ChatRequest, ReplyRecord
from prosg.llm.config import BudgetConfig, EndpointConfig
from prosg.llm.recorded import recorded_replies
from prosg.utils.progress import progress_bar
from prosg.utils.store import Log

__all__ = ["RequestLog"]

T = TypeVar("T")


class RequestLog:
    """The requests of a command and their replies.

    Attributes:
        replies: The replies so far, by stage and by the request's id.
        budget: Caps and ledger.
        shortfall: The replies that are missing.
    """

    def __init__(self, folder: Path, stages: Sequence[str], caps: BudgetConfig, option: str = "budget") -> None:
        """Opens the files in `folder`, created if missing, and closes the bookings that a killed process left open.

        Args:
            folder: The folder.
            stages: The stages.
            caps: Caps on all requests ever recorded there.
            option: The configuration's name for the caps, for messages.

        Raises:
            ValueError: for a damaged record, naming file and line.
        """
        self.logs = {stage: Log(folder / f"{stage}.jsonl") for stage in stages}
        self.replies: dict[str, dict[str, ReplyRecord]] = {
            stage: recorded_replies(log.path, log.records) for stage, log in self.logs.items()
        }
        self.budget = Budget(caps, folder / LEDGER, option)
        records = [record for log in self.logs.values() for record in log.records]
        costs = {record["id"]: Cost(record["tokens_in"], record["tokens_out"], record["money"]) for record in records}
        if lost := self.budget.recover(costs):
            print(f"{lost} requests were under way when this was stopped; they are asked again", file=sys.stderr)
        # A client is created with the first request: not every command sends one.
        self.clients: dict[str, EndpointClient] = {}
        self.reached: set[str] = set()
        self.shortfall = Shortfall()

    async def request_all(
        self,
        description: str,
        stage: str,
        endpoint: EndpointConfig,
        jobs: Sequence[T],
        next_request: Callable[[T], ChatRequest | None],
    ) -> None:
        """Sends requests until every job has its replies, a cap is reached, or the endpoint is dead.

        Args:
            description: Label of the progress bar.
            stage: The stage.
            endpoint: The endpoint; the first call decides it for the stage.
            jobs: The jobs. Jobs whose next requests are equal count as one.
            next_request: The request that a job needs next, given the replies so far; None if it needs none.

        Raises:
            EndpointError: if the endpoint cannot be used, or has stopped to reply.
        """
        waiting = list({request.id: job for job in jobs if (request := next_request(job)) is not None}.values())
        if not waiting:
            return
        client = self._client(stage, endpoint)

        async def work(job: T) -> None:
            while (request := next_request(job)) is not None:
                self.replies[stage][request.id] = await client.fetch(request)

        with progress_bar(description, len(waiting), "request") as bar:
            shortfall = await client.run_all(waiting, work, bar.update)
        self.shortfall.given_up += shortfall.given_up
        self.shortfall.reason = shortfall.reason or self.shortfall.reason
        self.shortfall.cap = shortfall.cap or self.shortfall.cap

    def _client(self, stage: str, endpoint: EndpointConfig) -> EndpointClient:
        if stage not in self.clients:
            answered = any(record["finish"] != "error" for record in self.replies[stage].values())
            self.clients[stage] = EndpointClient(
                endpoint, self.budget, stage, self.logs[stage], answered=answered, reached=self.reached
            )
        return self.clients[stage]

    def print_summary(self) -> int:
        """Prints what was spent and which replies are missing.

        Returns:
            The exit status of the command: 0, or 1 where replies are missing.
        """
        requests, tokens, money = self.budget.spent
        outcomes = ", ".join(f"{number} {name}" for name, number in self.budget.outcomes.most_common())
        print(f"spent: {requests:,} requests ({outcomes or 'none'}), {tokens:,} tokens, {money:,.4f} money")
        if self.shortfall.cap:
            print(f"stopped by {self.shortfall.cap}; raise it and run the same command to go on", file=sys.stderr)
        if self.shortfall.given_up:
            failures = f"{self.shortfall.given_up} requests met only failures (the last: {self.shortfall.reason})"
            print(f"{failures}; the same command asks again", file=sys.stderr)
        return 1 if self.shortfall else 0

    def costs(self) -> dict[str, dict[str, int | float]]:
        """Returns by stage the number of replies, and their tokens_in, tokens_out and money."""
        costs = {}
        for stage, replies in self.replies.items():
            sums = {name: sum(record[name] for record in replies.values()) for name in Cost._fields}
            costs[stage] = {"replies": len(replies), **sums, "money": round(sums["money"], 6)}
        return costs

    async def close(self) -> None:
        """Closes connections and files."""
        for client in self.clients.values():
            await client.close()
        for log in (*self.logs.values(), self.budget.log):
            log.close()
