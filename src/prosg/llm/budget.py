"""Hard caps on requests, tokens and money, and the ledger that they are counted from.

The highest cost of every attempt is *booked* on the disk before the request is sent, and *settled* with its real cost
when it is over. A booking that was never settled, because the process was killed, is *lost* and counts in full, since
the server may have counted it. So no cap is ever exceeded. A line of the ledger that somebody removed is made up for:
what was settled counts without its booking, and a booking without its end is lost.

Lines of the ledger:
    {"event": "booked", "booking": number, "stage", "record", "requests": 1, "tokens", "money", "time"}
    {"event": "settled", "booking", "outcome": "reply" or the failure, "tokens_in", "tokens_out", "money", "time"}
    {"event": "lost", "booking", "time"}
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prosg.llm.config import BudgetConfig, EndpointConfig
from prosg.utils.fields import COUNT, check_record
from prosg.utils.store import Log, read_log

__all__ = ["LEDGER", "UNLIMITED_TOKENS", "Account", "Budget", "BudgetSpentError", "Cost", "Totals", "highest_cost"]

LEDGER = "ledger.jsonl"
"""The ledger's file in a command's folder."""
TEMPLATE_TOKENS = 64
"""Tokens that a server's chat template may add to a request."""
UNLIMITED_TOKENS = 32_768
"""Tokens that are booked for a reply whose length the request leaves to the server."""

LINE_FIELDS: dict[str, dict[str, type]] = {
    "booked": {"booking": COUNT, "record": str, "tokens": COUNT, "money": float},
    "settled": {"booking": COUNT, "outcome": str, "tokens_in": COUNT, "tokens_out": COUNT, "money": float},
    "lost": {"booking": COUNT},
}
"""What a line of each event has to hold."""


class BudgetSpentError(Exception):
    """The next request could exceed a cap; the message names it."""


class Cost(NamedTuple):
    """Tokens read and written, and their price."""

    tokens_in: int
    tokens_out: int
    money: float

    @staticmethod
    def of(endpoint: EndpointConfig, tokens_in: int, tokens_out: int) -> Cost:
        """Returns the cost of some tokens at an endpoint's prices."""
        money = (tokens_in * endpoint.input_price + tokens_out * endpoint.output_price) / 1e6
        return Cost(tokens_in, tokens_out, round(money, 9))


def highest_cost(endpoint: EndpointConfig, body: Mapping[str, Any]) -> Cost:
    """Returns the most that a request can cost: a token is at least one byte.

    Where the request sets no limit, `UNLIMITED_TOKENS` are booked for its reply.
    """
    tokens_in = len(json.dumps(body, ensure_ascii=False).encode()) + TEMPLATE_TOKENS
    return Cost.of(endpoint, tokens_in, body.get(endpoint.token_parameter or "", UNLIMITED_TOKENS))


class Totals(NamedTuple):
    """What counts against the caps."""

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def plus(self, requests: int, tokens: int, money: float) -> Totals:
        return Totals(self.requests + requests, self.tokens + tokens, self.money + money)


class Account:
    """What the lines of a ledger add up to.

    Attributes:
        spent: What counts against the caps, open bookings included.
        outcomes: Number of closed bookings by outcome.
    """

    def __init__(self, path: Path, records: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Adds up the ledger at `path`, or its `records` where they are read. Raises ValueError for a damaged line."""
        self.spent = Totals()
        self.outcomes: Counter[str] = Counter()
        self._open: dict[int, Mapping[str, Any]] = {}
        self._last_booking = 0
        for number, line in enumerate(read_log(path) if records is None else records, 1):
            fields = LINE_FIELDS.get(str(line.get("event")))
            if fields is None:
                raise ValueError(f"{path}:{number}: event is {line.get('event')!r:.40}; delete the line")
            check_record(line, fields, f"{path}:{number}")
            self._last_booking = max(self._last_booking, line["booking"])
            if line["event"] == "booked":
                self._open[line["booking"]] = line
                self.spent = self.spent.plus(1, line["tokens"], line["money"])
            else:
                self._close(line)

    def _close(self, line: Mapping[str, Any]) -> None:
        booked = self._open.pop(line["booking"], None)
        if booked is None:  # its line was damaged and deleted, or this one stands twice
            booked = {"tokens": 0, "money": 0.0}
            self.spent = self.spent.plus(1, 0, 0.0)
        if line["event"] == "settled":
            tokens = line["tokens_in"] + line["tokens_out"]
            self.spent = self.spent.plus(0, tokens - booked["tokens"], line["money"] - booked["money"])
        self.outcomes[line.get("outcome", line["event"])] += 1


class Budget(Account):
    """Caps and ledger of a command's requests.

    Attributes:
        log: The ledger.
    """

    def __init__(self, caps: BudgetConfig, path: Path, option: str = "budget") -> None:
        """Opens or creates the ledger at `path`. Raises ValueError for a damaged line.

        option: The configuration's name for the caps, for messages.
        """
        self.caps, self.option = caps, option
        self.log = Log(path)
        super().__init__(path, self.log.records)
        self._settled = asyncio.Condition()

    def recover(self, recorded: Mapping[str, Cost]) -> int:
        """Closes the bookings that a killed process left open: settled if the reply was recorded, else lost.

        recorded: the cost of every recorded reply by the request's id. Returns the number of lost bookings.
        """
        lost = 0
        for booking, line in list(self._open.items()):
            cost = recorded.get(line["record"])
            if cost is not None:
                self._end("settled", booking, {"outcome": "reply", **cost._asdict()})
            else:
                self._end("lost", booking, {})
                lost += 1
        return lost

    def exceeded_cap(self, cost: Cost) -> str:
        """Returns which cap one more request of this cost could exceed, and by how much; "" if none."""
        after = self.spent.plus(1, cost.tokens_in + cost.tokens_out, cost.money)
        for name, total, used in zip(Totals._fields, after, self.spent, strict=True):
            cap = getattr(self.caps, name)
            if cap is not None and total > cap:
                needed = f"the next request may need {total - used:,.9g}"
                return f"{self.option}.{name}: {used:,.9g} of {cap:,.9g} are used, {needed}"
        return ""

    async def book(self, stage: str, request_id: str, cost: Cost) -> int:
        """Books a request at its highest cost, waiting for requests under way if these may leave room.

        Returns the booking's number. Raises BudgetSpentError if there is no room.
        """
        async with self._settled:
            while reason := self.exceeded_cap(cost):
                if not self._open:
                    raise BudgetSpentError(reason)
                await self._settled.wait()
            self._last_booking += 1
            tokens = cost.tokens_in + cost.tokens_out
            line: dict[str, Any] = {
                "event": "booked",
                "booking": self._last_booking,
                "stage": stage,
                "record": request_id,
                "requests": 1,
                "tokens": tokens,
                "money": cost.money,
                "time": round(time.time(), 3),
            }
            self.log.append(line)
            self._open[self._last_booking] = line
            self.spent = self.spent.plus(1, tokens, cost.money)
            return self._last_booking

    async def settle(self, booking: int, outcome: str, cost: Cost) -> None:
        """Closes a booking with its outcome ("reply" or a failure) and real cost; wakes requests that wait for room."""
        self._end("settled", booking, {"outcome": outcome, **cost._asdict()})
        async with self._settled:
            self._settled.notify_all()

    def _end(self, event: str, booking: int, details: Mapping[str, Any]) -> None:
        line = {"event": event, "booking": booking, **details, "time": round(time.time(), 3)}
        # If this line is lost with the machine's power, the booking is settled again from the reply's record.
        self.log.append(line, wait=False)
        self._close(line)
