"""Hard caps on requests, tokens and money, and the ledger that they are counted from.

Every attempt to send a request is *booked* with the most that it can cost, on the disk, before it is sent, and
*settled* with what it did cost when it is over. A booking that was never settled (the process was killed) counts in
full and is called *lost*: the server may have counted it. So no cap is ever exceeded, whatever happens.

Lines of the ledger:
    {"event": "booked", "booking": number, "stage", "record", "requests": 1, "tokens", "money", "time"}
    {"event": "settled", "booking", "outcome": "reply" | what failed, "tokens_in", "tokens_out", "money", "time"}
    {"event": "lost", "booking", "time"}
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prosg.llm.config import BudgetConfig, EndpointConfig
from prosg.utils.store import Log

__all__ = ["Budget", "BudgetSpentError", "Cost", "Totals"]


class BudgetSpentError(Exception):
    """The next request could exceed a cap."""


class Cost(NamedTuple):
    """Tokens that are read and written, and their price."""

    tokens_in: int
    tokens_out: int
    money: float

    @staticmethod
    def of(endpoint: EndpointConfig, tokens_in: int, tokens_out: int) -> Cost:
        money = (tokens_in * endpoint.input_price + tokens_out * endpoint.output_price) / 1e6
        return Cost(tokens_in, tokens_out, round(money, 9))


class Totals(NamedTuple):
    """What counts against the caps."""

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def plus(self, requests: int, tokens: int, money: float) -> Totals:
        return Totals(self.requests + requests, self.tokens + tokens, self.money + money)


class Budget:
    """Caps and ledger of a build."""

    def __init__(self, caps: BudgetConfig, path: Path) -> None:
        self.caps = caps
        self.log = Log(path)
        self.open: dict[int, dict[str, Any]] = {}
        self.spent = Totals()
        self.outcomes: Counter[str] = Counter()
        self.last = 0
        self.changed = asyncio.Condition()
        for line in self.log.records:
            if line["event"] == "booked":
                self.last = line["booking"]
                self.open[self.last] = line
                self.spent = self.spent.plus(1, line["tokens"], line["money"])
            else:
                self._close(line)

    def _close(self, line: Mapping[str, Any]) -> None:
        booked = self.open.pop(line["booking"])
        if line["event"] == "settled":
            tokens = line["tokens_in"] + line["tokens_out"]
            self.spent = self.spent.plus(0, tokens - booked["tokens"], line["money"] - booked["money"])
        self.outcomes[line.get("outcome", line["event"])] += 1

    def recover(self, recorded: Mapping[str, Cost]) -> int:
        """Close what a killed process left open: settled where its reply was recorded, else lost; returns how many are.

        recorded: cost of every reply that was recorded, by the record's id.
        """
        lost = 0
        for number, line in list(self.open.items()):
            cost = recorded.get(line["record"])
            if cost is not None:
                self.settle(number, "reply", cost)
                continue
            self._end({"event": "lost", "booking": number})
            lost += 1
        return lost

    def missing(self, cost: Cost) -> str:
        """Which cap one more request of this cost could exceed; "" where none."""
        after = self.spent.plus(1, cost.tokens_in + cost.tokens_out, cost.money)
        for name, used, had in zip(Totals._fields, after, self.spent, strict=True):
            cap = getattr(self.caps, name)
            if cap is not None and used > cap:
                return f"budget.{name}: {had:,.9g} of {cap:,.9g} are used, the next request may need {used - had:,.9g}"
        return ""

    async def book(self, stage: str, record: str, cost: Cost) -> int:
        """Book a request, after those under way where they may leave room. BudgetSpentError where there is none."""
        async with self.changed:
            while reason := self.missing(cost):
                if not self.open:
                    raise BudgetSpentError(reason)
                await self.changed.wait()
            self.last += 1
            line: dict[str, Any] = {
                "event": "booked",
                "booking": self.last,
                "stage": stage,
                "record": record,
                "requests": 1,
            }
            line |= {"tokens": cost.tokens_in + cost.tokens_out, "money": cost.money, "time": round(time.time(), 3)}
            self.log.append(line)
            self.open[self.last] = line
            self.spent = self.spent.plus(1, cost.tokens_in + cost.tokens_out, cost.money)
            return self.last

    def settle(self, booking: int, outcome: str, cost: Cost) -> None:
        """Close a booking with what it cost."""
        self._end({"event": "settled", "booking": booking, "outcome": outcome, **cost._asdict()})

    def _end(self, line: dict[str, Any]) -> None:
        # Where this line is lost with the machine's power, the booking is settled again from the reply's record.
        self.log.append(line | {"time": round(time.time(), 3)}, wait=False)
        self._close(line)

    async def tell(self) -> None:
        """Wake those that wait for room."""
        async with self.changed:
            self.changed.notify_all()
