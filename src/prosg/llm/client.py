"""Requests of one stage to an endpoint: attempts repeated after transient failures, booked, recorded and settled.

A reply that arrived whole is recorded, whatever it says, and never requested again. The first request of a run goes
alone: it shows whether anything that replies is there at all, so that a wrong address costs one request and seconds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from prosg.llm.budget import Budget, BudgetSpentError, Cost, highest_cost
from prosg.llm.completion import (
    NO_COMPLETION,
    NO_CONNECTION,
    ChatCompletions,
    ChatReply,
    ChatRequest,
    EndpointError,
    ReplyRecord,
    TransientError,
)
from prosg.llm.config import LIMITS, EndpointConfig
from prosg.llm.failures import parameter_advice, refused_parameters
from prosg.llm.waiting import WaitingNotes
from prosg.utils.extras import missing_extra
from prosg.utils.store import Log

__all__ = ["EndpointClient", "GaveUpError", "Shortfall"]

T = TypeVar("T")
DEAD_AFTER = 3
"""Requests given up in a row, without a reply in between, after which the server counts as gone."""
COST_FREE = ("http ", NO_CONNECTION)
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

    def __init__(
        self, endpoint: EndpointConfig, budget: Budget, stage: str, log: Log, *, answered: bool, reached: set[str]
    ) -> None:
        """
        Args:
            endpoint: The endpoint.
            budget: Caps and ledger.
            stage: The stage's name in the ledger.
            log: Where replies are recorded.
            answered: Whether the stage has a reply from the model already. Until then a refusal is taken for a fault of
                the configuration, afterwards for one of the single request.
            reached: Addresses that have replied in this run; shared by all stages. Until then what is no connection or
                no chat completion is taken for a fault of the configuration.

        Raises:
            ValueError: if a package is missing.
        """
        try:
            import tenacity  # noqa: F401 - so that its absence shows before the first request

            self.completions = ChatCompletions(endpoint)
        except ImportError as error:
            raise missing_extra("asking a model", "data", error) from None
        self.endpoint, self.budget, self.stage, self.log = endpoint, budget, stage, log
        self.answered, self.reached = answered, reached
        self.failures = 0
        self.replied = False
        self.unusable: EndpointError | None = None
        self._first = asyncio.Lock()
        self.notes = WaitingNotes(endpoint)

    async def fetch(self, request: ChatRequest) -> ReplyRecord:
        """Sends a request until there is a reply, records it, and only then settles its cost. Returns the record.

        Raises:
            GaveUpError: if all attempts failed.
            BudgetSpentError: if the request could exceed a cap.
            EndpointError: if the endpoint cannot be used as it is configured.
        """
        if not self.replied:
            async with self._first:
                record = await self._fetch_first(request)
            if record is not None:
                return record
        return await self._fetch(request)

    async def _fetch_first(self, request: ChatRequest) -> ReplyRecord | None:
        """Fetches a request while no other is under way; None where another has had a reply by now."""
        if self.unusable is not None:
            raise self.unusable
        if self.replied:
            return None
        try:
            return await self._fetch(request)
        except EndpointError as error:
            self.unusable = error
            raise

    async def _fetch(self, request: ChatRequest) -> ReplyRecord:
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

        config = self.endpoint

        def pause(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            demanded = error.wait if isinstance(error, TransientError) else 0.0
            backoff = config.backoff * 2.0 ** (state.attempt_number - 1) * random.uniform(0.5, 1.0)
            return max(demanded, min(backoff, config.longest_wait))

        def tell(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            wait = f"attempt {state.attempt_number + 1} of {config.attempts} in {state.upcoming_sleep:.0f} s"
            self.notes.say(f"{config.base_url}: {error}; {wait}")

        attempts = AsyncRetrying(
            stop=stop_after_attempt(config.attempts),
            wait=pause,
            retry=retry_if_exception_type(TransientError),
            before_sleep=tell,
            reraise=True,
        )
        try:
            record: dict[str, Any] = await attempts(self._attempt, request)
        except TransientError as error:
            if not (self.answered or self._was_reached()):
                raise self._nobody(error) from None
            raise GaveUpError(error.reason) from None
        self.failures = 0
        return record

    def _was_reached(self) -> bool:
        return self.endpoint.base_url in self.reached

    def _nobody(self, error: TransientError) -> EndpointError:
        """What it means that the first request of a run gets no reply."""
        if error.reason == NO_COMPLETION:
            return EndpointError(f"{self.endpoint.base_url}: {error.reason}, but {error.detail}; check base_url")
        return EndpointError(f"{self.endpoint.base_url} gives no replies: {error}; check base_url, or try again later")

    async def _attempt(self, request: ChatRequest) -> dict[str, Any]:
        highest = highest_cost(self.endpoint, request.body)
        booking = await self.budget.book(self.stage, request.id, highest)
        outcome, cost = "cancelled", highest
        try:
            reply = await self._complete(request.body, highest)
            if reply.finish == "error" and not self.replied:
                self._check_refusal(request.body, reply)
            record = reply.to_record(request.id)
            self.log.append(record)
            self.answered = self.replied = True
            self.reached.add(self.endpoint.base_url)
            outcome, cost = "reply", reply.cost
            return record
        except TransientError as error:
            outcome = error.reason
            if outcome.startswith(COST_FREE):
                cost = Cost(0, 0, 0.0)
            if not self._was_reached() and outcome in (NO_CONNECTION, NO_COMPLETION):
                raise self._nobody(error) from None
            if error.wait > self.endpoint.longest_wait:
                raise GaveUpError(f"{error.reason}, and it asks to wait {error.wait:.0f} s") from None
            raise
        except EndpointError:
            outcome, cost = "refused", Cost(0, 0, 0.0)
            raise
        finally:
            await self.budget.settle(booking, outcome, cost)

    async def _complete(self, body: Mapping[str, Any], highest: Cost) -> ChatReply:
        """Sends a request once; says what is waited for as long as this run has no reply."""
        if self.replied:
            return await self.completions.complete(body, highest)
        waiting = asyncio.create_task(self.notes.say_while_waiting())
        try:
            return await self.completions.complete(body, highest)
        finally:
            waiting.cancel()

    def _check_refusal(self, body: Mapping[str, Any], reply: ChatReply) -> None:
        """Raises EndpointError where the refusal of a run's first request is a fault of the configuration.

        It is one if the stage has no reply yet, or if a parameter is refused; the limit alone may be due to the prompt.
        """
        named = refused_parameters(body, reply.refusal)
        if not self.answered or set(named) - LIMITS:
            advice = "".join(f"; {parameter_advice(name)}" for name in named[:1])
            raise EndpointError(f"{self.endpoint.base_url} refuses the first request: {reply.refusal}{advice}")

    async def run_all(
        self, jobs: Sequence[T], work: Callable[[T], Awaitable[None]], on_done: Callable[[], object]
    ) -> Shortfall:
        """Works on jobs, `endpoint.concurrency` at a time; begins no more after a cap or a dead endpoint.

        `work` makes a job's requests with `fetch`. Raises EndpointError if the endpoint cannot be used or is dead. Any
        other error, such as a full disk, ends the other jobs before it is raised.
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

        workers = [asyncio.create_task(worker()) for _ in range(min(self.endpoint.concurrency, len(jobs)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for one in workers:
                one.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if broken:
            raise broken
        if not shortfall.cap and next(waiting, None) is not None:
            raise EndpointError(f"{self.endpoint.base_url} gives no replies ({shortfall.reason}); try again later")
        return shortfall

    async def close(self) -> None:
        """Closes the connections."""
        await self.completions.close()
