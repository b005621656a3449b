"""The simulation of many replicas: against what can be reckoned by hand, and its routers against what they promise."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("simpy")

from serving_simulation import BOUND, ROUTERS, Consistent, Costs, Load, Multiplexed, simulate

COSTS = Costs(rows=(1, 3), seconds=(0.1, 0.2), prompt_bytes=100, overhead=0.0, latency=0.5, bandwidth=100.0)


def test_a_step_is_taken_from_straight_lines() -> None:
    assert [round(COSTS.step(rows), 6) for rows in (1, 2, 3, 5)] == [0.1, 0.15, 0.2, 0.3]
    assert COSTS.fetch == 1.5


def test_answers_wait_their_turn_and_prompts_are_fetched_once() -> None:
    load = Load(at=[0.0, 2.0, 2.05], prompts=[7, 7, 7], tokens=2)
    found = simulate(load, COSTS, Consistent(1, None), replicas=1, cache_bytes=100, max_rows=1)
    # 1.5 to fetch, then 0.1 a token; the third waits for the second.
    assert found["hit_rate"] == pytest.approx(2 / 3)
    assert found["bytes_moved"] == 100
    assert found["first_p99"] == pytest.approx(1.6, rel=0.02)
    assert found["first_p50"] == pytest.approx(0.25)
    assert found["requests_per_second"] == pytest.approx(3 / 2.4)


def test_answers_that_are_written_together_share_the_step() -> None:
    load = Load(at=[0.0, 0.0, 0.0], prompts=[1, 2, 3], tokens=4, warm=[1, 2, 3])
    found = simulate(load, COSTS, Consistent(1, None), replicas=1, cache_bytes=1000)
    assert found["hit_rate"] == 1
    # The first two begin together, the third with their second token: 0.15, then 3 x 0.2.
    assert found["whole_p50"] == pytest.approx(0.75)


def test_replicas_that_share_a_core_take_turns() -> None:
    load = Load(at=[0.0, 0.0], prompts=[1, 2], tokens=4, warm=[1, 2])
    runs = [simulate(load, COSTS, Multiplexed(2), replicas=2, cache_bytes=1000, cores=cores) for cores in (2, 1)]
    assert [run["whole_p99"] for run in runs] == pytest.approx([0.4, 0.8], rel=0.05)


@pytest.mark.parametrize("name", ROUTERS)
def test_the_same_load_gives_the_same_result(name: str) -> None:
    load = Load.zipf(1000, 1.0, 300, 50.0, 5, 2000, seed=3)
    runs = [simulate(load, COSTS, ROUTERS[name](4), replicas=4, cache_bytes=5000) for _ in range(2)]
    assert runs[0] == runs[1]
    assert 0 < runs[0]["hit_rate"] < 1


def test_prompts_stay_where_they_are_when_a_replica_is_added() -> None:
    four, five = Consistent(4, None), Consistent(5, None)
    before, after = ([router(prompt, [0] * 5) for prompt in range(2000)] for router in (four, five))
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {new for _, new in moved} == {4}
    assert 0.1 < len(moved) / 2000 < 0.3
    assert min(Counter(before).values()) > 250


def test_bounded_loads_stay_within_their_bound() -> None:
    router, loads = Consistent(8, BOUND), [0] * 8
    for _ in range(400):
        loads[router(1, loads)] += 1
    assert max(loads) <= BOUND * 400 / 8 + 1


def test_ray_serve_prefers_a_replica_that_has_the_prompt_and_has_room() -> None:
    router = Multiplexed(4, most=2)
    first = router(1, [0] * 4)
    assert {router(1, [0] * 4) for _ in range(20)} == {first}
    loads = [0] * 4
    loads[first] = 2
    assert router(1, loads) != first


@pytest.mark.parametrize("share", [0.3, 0.4, 0.7, 0.95])
def test_one_replica_that_writes_one_answer_at_a_time_is_a_queue(share: float) -> None:
    """M/D/1: the exact times are Lindley's, each answer begins when it comes or when the one before it ends."""
    costs = replace(COSTS, rows=(1,), seconds=(1.0,))
    load = Load.zipf(1, 1.0, 20_000, share, 1, 1, seed=0)
    found = simulate(load, costs, Consistent(1, None), replicas=1, cache_bytes=100, max_rows=1)
    end, taken = 0.0, []
    for at in load.at:
        end = max(at, end) + 1.0
        taken.append(end - at)
    assert found["first_p50"] == found["whole_p50"] == pytest.approx(np.quantile(taken, 0.5))
    assert found["whole_p99"] == pytest.approx(np.quantile(taken, 0.99))
    assert np.mean(taken) == pytest.approx(1 + share / (2 * (1 - share)), rel=0.15)  # Pollaczek and Khinchine
    if share < 0.5:  # more than half find it idle
        assert found["whole_p50"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"rows": ()}, "rows are"),
        ({"rows": (3, 1)}, "ascending"),
        ({"rows": (1,)}, "each with its seconds"),
        ({"seconds": (0.1, -1.0)}, "seconds is"),
        ({"latency": -1.0}, "latency is -1"),
        ({"latency": float("nan")}, "latency is nan"),
        ({"bandwidth": 0.0}, "bandwidth 0"),
        ({"prompt_bytes": 0}, "prompt_bytes is 0"),
    ],
)
def test_costs_that_nothing_has(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(COSTS, **wrong)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"at": [], "prompts": []}, "0 times"),
        ({"at": [1.0]}, "1 times and 2 prompts"),
        ({"at": [2.0, 1.0]}, "ascending"),
        ({"tokens": 0}, "tokens is 0"),
    ],
)
def test_loads_that_are_none(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(Load(at=[1.0, 2.0], prompts=[1, 2], tokens=3), **wrong)


def test_rates_and_numbers_that_are_none() -> None:
    right = {"prompts": 9, "exponent": 1.0, "requests": 3, "rate": 1.0, "tokens": 1, "warm": 0, "seed": 0}
    load = Load.zipf(**right)
    for wrong in ({"rate": 0.0}, {"requests": 0}, {"prompts": 0}, {"warm": -1}, {"exponent": -1.0}):
        with pytest.raises(ValueError, match="must be above 0"):
            Load.zipf(**(right | wrong))
    for wrong in ({"replicas": 0}, {"max_rows": 0}, {"cores": 0}, {"cache_bytes": -1.0}):
        with pytest.raises(ValueError, match="at least one"):
            simulate(load, COSTS, Consistent(1, None), **({"replicas": 1, "cache_bytes": 1.0} | wrong))


def test_a_step_that_takes_no_time_ends() -> None:
    load = Load(at=[0.0], prompts=[1], tokens=3, warm=[1])
    costs = replace(COSTS, rows=(1,), seconds=(0.0,))
    found = simulate(load, costs, Consistent(1, None), replicas=1, cache_bytes=100)
    assert found["whole_p99"] == pytest.approx(3e-6)
