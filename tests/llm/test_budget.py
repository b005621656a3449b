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


@pytest.mark.parametrize("removed", range(4))
def test_a_ledger_without_one_of_its_lines_is_read(tmp_path: Path, removed: int) -> None:
    path = tmp_path / "ledger.jsonl"

    async def book_two() -> None:
        budget = Budget(BudgetConfig(9, 9999), path)
        for name in "ab":
            await budget.settle(await budget.book("s", name, COST), "reply", Cost(5, 5, 0.1))

    asyncio.run(book_two())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:removed] + lines[removed + 1 :]))
    budget = Budget(BudgetConfig(9, 9999), path)
    assert budget.recover({}) == removed % 2  # a booking without its end is lost
    assert budget.spent == pytest.approx((2, 110, 0.6) if removed % 2 else (2, 20, 0.2))
    assert asyncio.run(budget.book("s", "c", COST)) == 3


@pytest.mark.parametrize(
    "line", ['{"event": "bookd"}', "{}", '{"event": "booked", "booking": 1}', '{"event": ["lost"]}']
)
def test_a_damaged_line_of_a_ledger_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"event": "lost", "booking": 7}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"ledger\.jsonl:2: .*delete the line"):
        Budget(BudgetConfig(9, 9999), path)


def test_a_reply_without_a_limit_is_booked_as_a_long_one() -> None:
    assert highest_cost(EndpointConfig(token_parameter=None), {}).tokens_out == 32_768
