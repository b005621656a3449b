"""Random numbers as a function of what they are drawn for."""

from __future__ import annotations

import numpy as np

from prosg.core.rng import uniforms


def test_each_row_may_have_its_own_seed_and_step() -> None:
    seeds, steps, ids = np.array([0, 7, 2**64 - 3], np.uint64), np.array([4, 0, 9]), np.array([5, 0, 1 << 40])
    together = uniforms(seeds, steps, ids, 3)
    for row, seed in enumerate((0, 7, -3)):
        assert np.array_equal(together[row : row + 1], uniforms(seed, int(steps[row]), ids[row : row + 1], 3))
