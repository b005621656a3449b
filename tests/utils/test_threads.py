"""Several threads are used only where they are faster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from prosg.utils import threads
from prosg.utils.threads import seconds_on, settle_threads


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("times", "chosen"), [({1: 1.0, 3: 0.5}, 3), ({1: 1.0, 3: 0.95}, 1), ({1: 1.0, 3: 8.0}, 1)])
def test_several_are_taken_where_they_are_faster(
    monkeypatch: pytest.MonkeyPatch, times: dict[int, float], chosen: int
) -> None:
    monkeypatch.setattr(threads, "seconds_on", times.__getitem__)
    assert settle_threads() == chosen == torch.get_num_threads()


def test_one_disturbed_round_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([1.0, 0.5, 1.0, 9.0, 1.0, 0.5])
    monkeypatch.setattr(threads, "seconds_on", lambda count: next(measured))
    assert settle_threads() == 3


def test_one_thread_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(threads, "seconds_on", lambda count: pytest.fail("probed"))
    assert settle_threads() == 1


def test_the_probe_measures_on_the_threads_that_it_is_told() -> None:
    assert seconds_on(1) > 0
    assert torch.get_num_threads() == 1
