"""Which gradient norms are spikes."""

from __future__ import annotations

import math

import pytest

from prosg.training.gradient_spikes import PATIENCE, SpikeDetector


def test_spikes_are_norms_far_above_the_mean_and_no_numbers() -> None:
    spikes = SpikeDetector(8.0)
    norms = {1.0: False, 7.9: False, 100.0: True, math.nan: True, math.inf: True, 1.1: False}
    assert {norm: spikes.is_spike(norm) for norm in norms} == norms
    assert spikes.skipped == 3 and spikes.last == 1.1


def test_the_first_norm_is_no_spike_unless_it_is_no_number() -> None:
    assert not SpikeDetector(8.0).is_spike(1e9)
    assert SpikeDetector(8.0).is_spike(math.nan)


def test_norms_that_have_grown_for_good_are_accepted_in_the_end() -> None:
    spikes = SpikeDetector(2.0)
    spikes.is_spike(1.0)
    assert [spikes.is_spike(10.0) for _ in range(PATIENCE)].index(False) > 50


def test_a_run_of_spikes_is_given_up() -> None:
    spikes = SpikeDetector(8.0)
    assert all(spikes.is_spike(math.nan) for _ in range(PATIENCE - 1))
    with pytest.raises(ValueError, match="no step had a finite gradient"):
        spikes.is_spike(math.nan)
    spikes = SpikeDetector(8.0)
    spikes.is_spike(1.0)
    assert all(spikes.is_spike(math.nan) for _ in range(PATIENCE - 1))
    with pytest.raises(ValueError, match=r"optim\.lr"):
        spikes.is_spike(math.nan)


def test_a_short_run_that_ends_in_broken_gradients_is_given_up_at_its_end() -> None:
    spikes = SpikeDetector(8.0)
    for norm in (1.0, math.nan, 1.0, math.nan, math.inf):
        spikes.is_spike(norm)
    spikes.check_end(5)
    spikes.is_spike(math.nan)
    with pytest.raises(ValueError, match=r"the last 3 of 5 steps are no numbers, .*; lower optim\.lr"):
        spikes.check_end(5)
    spikes.is_spike(50.0)  # too large, but a number: a short run may end so
    spikes.check_end(5)
