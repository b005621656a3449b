"""Requests of one stage to an endpoint: attempts repeated after transient failures, booked, recorded and settled.

A reply that arrived whole is recorded, whatever it says, and never requested again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prosg.llm.budget import Budget, BudgetSpentError, Cost, highest_cost
from prosg.llm.completion import ChatCompletions, ChatRequest, EndpointError, ReplyRecord, TransientError
from prosg.llm.config import EndpointConfig
from prosg.utils.store import Log

__all__ = ["EndpointClient", "GaveUpError", "Shortfall"]

T = TypeVar("T")
DEAD_AFTER = 3
"""Requests given up in a row, without a reply in between, after which the server counts as gone."""
COST_FREE = ("http ", "no connection")
"""Failures that cost no tokens; after any other the server may have counted the tokens that were booked."""


class GaveUpError(Exception):
    """All attempts at a request failed; the next run of the command sends it again."""


@dataclass
class Shortfall:
    """The replies that are missing: requests given up, the last failure, and the cap that ended the requests."""

    given_up: int = 0
    reason: str = ""
    cap: str = ""

    def __bool__(self) -> bool:
        return bool(self.given_up or self.cap)


class EndpointClient:
    """Sends the requests of one stage to an endpoint."""

    def __init__(self, endpoint: EndpointConfig, budget: Budget, stage: str, log: Log, *, answered: bool) -> None:
        """Raises ValueError if a package is missing.

        answered: whether the stage has a reply from the model already. Until then a 4xx is taken for a fault of the
        configuration, afterwards for one of the single request.
        """
        try:
            import tenacity  # noqa: F401 - so that its absence shows before the first request

            self.completions = ChatCompletions(endpoint)
        except ImportError as error:
            raise ValueError(f"asking a model needs the package {error.name}: pip install 'prosg[data]'") from None
        self.endpoint, self.budget, self.stage, self.log = endpoint, budget, stage, log
        self.answered = answered
        self.failures = 0

    async def fetch(self, request: ChatRequest) -> ReplyRecord:
        """Sends a request until there is a reply, records it, and only then settles its cost. Returns the record.

        Raises:
            GaveUpError: if all attempts failed.
            BudgetSpentError: if the request could exceed a cap.
            EndpointError: if the endpoint cannot be used as it is configured.
        """
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

        config = self.endpoint

        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            demanded = error.wait if isinstance(error, TransientError) else 0.0
            backoff = config.backoff * 2.0 ** (state.attempt_number - 1) * random.uniform(0.5, 1.0)
            return max(demanded, min(backoff, config.longest_wait))

        attempts = AsyncRetrying(
            stop=stop_after_attempt(config.attempts),
            wait=pause,
            retry=retry_if_exception_type(TransientError),
            reraise=True,
        )
        try:
            record: dict[str, Any] = await attempts(self._attempt, request)
        except TransientError as error:
            raise GaveUpError(error.reason) from None
        self.failures = 0
        return record

    async def _attempt(self, request: ChatRequest) -> dict[str, Any]:
        highest = highest_cost(self.endpoint, request.body)
        booking = await self.budget.book(self.stage, request.id, highest)
        outcome, cost = "cancelled", highest
        try:
            reply = await self.completions.complete(request.body, highest)
            if reply.finish == "error" and not self.answered:
                raise EndpointError(f"{self.endpoint.base_url} refuses the first request: {reply.refusal}")
            record = reply.to_record(request.id)
            self.log.append(record)
            self.answered = True
            outcome, cost = "reply", reply.cost
            return record
        except TransientError as error:
            outcome = error.reason
            if outcome.startswith(COST_FREE):
                cost = Cost(0, 0, 0.0)
            if error.wait > self.endpoint.longest_wait:
                raise GaveUpError(f"{error.reason}, and it asks to wait {error.wait:.0f} s") from None
            raise
        except EndpointError:
            outcome, cost = "refused", Cost(0, 0, 0.0)
            raise
        finally:
            await self.budget.settle(booking, outcome, cost)

    async def run_all(
        self, jobs: Sequence[T], work: Callable[[T], Awaitable[None]], on_done: Callable[[], object]
    ) -> Shortfall:
        """Works on jobs, `endpoint.concurrency` at a time; begins no more after a cap or a dead endpoint.

        `work` makes a job's requests with `fetch`. Raises EndpointError if the endpoint cannot be used or is dead.
        """
        waiting = iter(jobs)
        self.failures = 0
        shortfall = Shortfall()
        broken: EndpointError | None = None

        async def worker() -> None:
            nonlocal broken
            for job in waiting:
                try:
                    await work(job)
                except GaveUpError as error:
                    self.failures += 1
                    shortfall.given_up += 1
                    shortfall.reason = str(error)
                except BudgetSpentError as error:
                    shortfall.cap = str(error)
                except EndpointError as error:
                    broken = broken or error
                on_done()
                if shortfall.cap or broken or self.failures >= DEAD_AFTER:
                    return

        await asyncio.gather(*(worker() for _ in range(min(self.endpoint.concurrency, len(jobs)))))
        if broken:
            raise broken
        if not shortfall.cap and next(waiting, None) is not None:
            raise EndpointError(f"{self.endpoint.base_url} gives no replies ({shortfall.reason}); try again later")
        return shortfall

    async def close(self) -> None:
        """Closes the connections."""
        await self.completions.close()
