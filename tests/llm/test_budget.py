"""Bookings against caps, and the ledger after a kill."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from prosg.llm.budget import Budget, BudgetSpentError, Cost, highest_cost
from prosg.llm.config import BudgetConfig, EndpointConfig
from prosg.utils.store import read_log

COST = Cost(60, 40, 0.5)


def test_the_highest_cost_counts_bytes_and_the_limit() -> None:
    endpoint = EndpointConfig(input_price=1e6, output_price=2e6)
    assert highest_cost(endpoint, {"max_tokens": 10}) == Cost(18 + 64, 10, 102.0)


@pytest.mark.parametrize(
    ("caps", "name"),
    [
        (BudgetConfig(1, 1000), "budget.requests"),
        (BudgetConfig(9, 199), "budget.tokens"),
        (BudgetConfig(9, 999, 0.9), "budget.money"),
    ],
)
def test_a_request_that_could_exceed_a_cap_is_not_booked(tmp_path: Path, caps: BudgetConfig, name: str) -> None:
    async def book_two() -> None:
        budget = Budget(caps, tmp_path / "ledger.jsonl")
        first = await budget.book("s", "a", COST)
        await budget.settle(first, "reply", COST)
        await budget.book("s", "b", COST)

    with pytest.raises(BudgetSpentError, match=name):
        asyncio.run(book_two())
    assert [line["event"] for line in read_log(tmp_path / "ledger.jsonl")] == ["booked", "settled"]


def test_a_request_waits_until_another_leaves_room(tmp_path: Path) -> None:
    async def book_two() -> tuple[bool, int]:
        budget = Budget(BudgetConfig(9, 150), tmp_path / "ledger.jsonl")
        first = await budget.book("s", "a", COST)
        second = asyncio.create_task(budget.book("s", "b", COST))
        await asyncio.sleep(0)
        waited = not second.done()
        await budget.settle(first, "reply", Cost(10, 10, 0.1))
        return waited, await second

    assert asyncio.run(book_two()) == (True, 2)


def test_open_bookings_are_settled_by_their_record_or_lost(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"

    async def book_two() -> None:
        budget = Budget(BudgetConfig(9, 9999), path)
        await budget.book("s", "recorded", COST)
        await budget.book("s", "unknown", COST)

    asyncio.run(book_two())
    budget = Budget(BudgetConfig(9, 9999), path)
    assert budget.spent == (2, 200, 1.0)
    assert budget.recover({"recorded": Cost(5, 5, 0.1)}) == 1
    assert budget.spent == (2, 110, 0.6) and budget.outcomes == {"reply": 1, "lost": 1}
    again = Budget(BudgetConfig(9, 9999), path)
    assert (again.spent, again.recover({})) == (budget.spent, 0)
