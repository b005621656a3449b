"""Which steps are skipped because their gradient has exploded."""

from __future__ import annotations

import math

__all__ = ["SpikeDetector"]

PATIENCE = 100
"""Spikes in a row after which a run is given up."""


class SpikeDetector:
    """Compares each step's gradient norm with the running mean of the norms before it.

    Attributes:
        threshold: A norm above this many times the running mean is a spike.
        mean: Running mean; 0 before the first finite norm.
        skipped: Spikes so far.
        in_a_row: Spikes since the last step that was none.
        broken_in_a_row: Norms that are no numbers since the last one that is.
        last: The newest norm.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.mean = 0.0
        self.skipped = 0
        self.last = 0.0
        self.in_a_row = 0
        self.broken_in_a_row = 0

    def is_spike(self, norm: float) -> bool:
        """Takes in a step's gradient norm; returns whether the step is to be skipped.

        A spike enters the mean as the largest norm that is none, so norms that have grown for good are accepted later.

        Raises:
            ValueError: after `PATIENCE` spikes in a row.
        """
        self.last = norm
        limit = self.threshold * self.mean
        spike = not math.isfinite(norm) or 0 < limit < norm
        self.broken_in_a_row = 0 if math.isfinite(norm) else self.broken_in_a_row + 1
        if spike:
            self.skipped += 1
            self.in_a_row += 1
            if self.in_a_row >= PATIENCE:
                raise ValueError(f"training diverged: {PATIENCE} steps in a row had to be skipped; {self._remedy}")
        else:
            self.in_a_row = 0
        if math.isfinite(norm):
            value = limit if spike else norm
            self.mean = value if self.mean == 0 else 0.98 * self.mean + 0.02 * value
        return spike

    def check_end(self, steps: int) -> None:
        """Refuses what a run of so many steps leaves whose gradients are no numbers at its end: it is too short.

        Raises:
            ValueError: where that goes for more than half of all steps.
        """
        if 2 * self.broken_in_a_row > steps:
            raise ValueError(
                f"training diverged: the gradients of the last {self.broken_in_a_row} of {steps} steps are no numbers, "
                f"so these were skipped; {self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        return "lower optim.lr" if self.mean else "no step had a finite gradient: look at the rows"
