"""Counters and the list of what waits."""

from __future__ import annotations

import pytest

from prosg.serving.statistics import EngineStatistics, Histogram
from prosg.serving.waiting import QueueFull, WaitingList


def test_a_histogram_counts_up_to_its_bounds() -> None:
    histogram = Histogram(bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.add(value)
    assert histogram.counts == [2, 1, 1] and histogram.cumulative() == [2, 3, 4]
    assert histogram.count == 4 and histogram.total == pytest.approx(7.65)


def test_a_copy_of_the_statistics_stays_as_it_is() -> None:
    now = EngineStatistics()
    kept = now.copy()
    now.finished["stop"] = 1
    now.first_token.add(1.0)
    assert not kept.finished and kept.first_token.count == 0 and kept.first_token.total == 0


def test_owners_take_turns() -> None:
    waiting: WaitingList[str] = WaitingList()
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        waiting.push(item[0], item)
    waiting.remove("b1")
    waiting.remove("c1")
    assert len(waiting) == 4 and sorted(waiting) == ["a1", "a2", "a3", "b2"]
    waiting.push("c", "c2")
    assert [waiting.pop() for _ in range(5)] == ["a1", "b2", "c2", "a2", "a3"]
    with pytest.raises(KeyError):
        waiting.pop()


def test_a_full_queue_says_when_to_come_back() -> None:
    assert QueueFull(3, 0.2).seconds == 1 and QueueFull(3, 12.2).seconds == 13
    assert str(QueueFull(3, 12.2)) == "3 requests wait, as many as may; try again in 13 s"
