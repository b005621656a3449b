"""Batch samplers: which rows every training step reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random

__all__ = ["LengthBatches", "StepBatches"]


class StepBatches:
    """Batch sampler of a whole run: the row indices of every micro-batch, over as many epochs as needed.

    The rows of a step are a function of (seed, step, global batch size) only, whatever the number of micro-batches and
    processes. Each process reads a contiguous part of every micro-batch.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a step, over all micro-batches and processes.
        accumulation: Micro-batches of a step.
        steps: Steps of the run.
        seed: Seed of the shuffling.
        process: Rank of this process.
        processes: Number of processes.

    Raises:
        ValueError: As `LengthBatches`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        accumulation: int,
        steps: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.epochs = LengthBatches(lengths, batch_size, seed=seed, drop_last=len(lengths) >= batch_size)
        self.accumulation, self.steps = accumulation, steps
        self.process, self.processes = process, processes

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        pieces = self.accumulation * self.processes
        for _, batch in zip(range(self.steps), self._batches(), strict=False):
            cuts = [len(batch) * piece // pieces for piece in range(pieces + 1)]
            spans = list(itertools.pairwise(cuts))[self.process :: self.processes]
            yield from (batch[start:end] for start, end in spans)

    def _batches(self) -> Iterator[list[int]]:
        for epoch in itertools.count():
            self.epochs.set_epoch(epoch)
            yield from self.epochs


class LengthBatches:
    """Batch sampler of an epoch that groups rows of similar length, as a function of (seed, epoch, batch size).

    Rows are shuffled, sorted by length within windows of several batches and cut into batches, which are shuffled in
    turn. Every row comes exactly once per epoch, up to an incomplete last batch that is dropped.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch.
        seed: Seed of the shuffling.
        drop_last: Drop the last batch if it is incomplete.
        window: Batches within which rows are sorted by length.

    Raises:
        ValueError: If `batch_size` is below 1, or there are too few rows for one batch.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int = 0, *, drop_last: bool = False, window: int = 50
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if not lengths or (drop_last and len(lengths) < batch_size):
            raise ValueError(f"{len(lengths)} rows do not fill one batch of {batch_size}; give more rows")
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.drop_last, self.window = drop_last, window
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        rng = Random(f"{self.seed}/{self.epoch}/{self.batch_size}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        # The incomplete batch is taken before sorting, or it would always hold the longest rows.
        whole = len(order) - len(order) % self.batch_size
        batches = []
        for start in range(0, whole, self.window * self.batch_size):
            end = min(start + self.window * self.batch_size, whole)
            rows = sorted(order[start:end], key=self.lengths.__getitem__)
            batches += [rows[cut : cut + self.batch_size] for cut in range(0, len(rows), self.batch_size)]
        if whole < len(order) and not self.drop_last:
            batches.append(order[whole:])
        rng.shuffle(batches)
        return iter(batches)
