"""x"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random

__all__ = ["LengthBatches", "StepBatches"]


class StepBatches:
    """Row indices of every micro-batch of a run, in order: epochs of length-grouped batches, one after the other.

    A step's rows are a function of (seed, epoch, global batch size) alone. They are the same however many parts
    (`accumulation`) they are read in, and however many `processes` share each part: of a part's rows each process
    reads a run of its own.
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
            mine = list(itertools.pairwise(cuts))[self.process :: self.processes]
            yield from (batch[start:end] for start, end in mine)

    def _batches(self) -> Iterator[list[int]]:
        for epoch in itertools.count():
            self.epochs.set_epoch(epoch)
            yield from self.epochs


class LengthBatches:
    """Batches of like lengths: a batch sampler that is a pure function of (seed, epoch, global batch size).

    Rows are shuffled, sorted by length within runs of `run` batches, cut into batches, and the batches shuffled. Every
    row comes exactly once per epoch; an incomplete last batch is kept, or left out with `drop_last`.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int = 0, *, drop_last: bool = False, run: int = 50
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if not lengths or (drop_last and len(lengths) < batch_size):
            raise ValueError(f"{len(lengths)} rows do not fill one batch of {batch_size}; give more rows")
        self.lengths, self.batch_size, self.seed, self.drop_last, self.run = lengths, batch_size, seed, drop_last, run
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        rng = Random(f"{self.seed}/{self.epoch}/{self.batch_size}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        # The incomplete batch is taken from the shuffled rows, or it would always hold the longest ones.
        whole = len(order) - len(order) % self.batch_size
        batches = []
        for start in range(0, whole, self.run * self.batch_size):
            run = sorted(order[start : min(start + self.run * self.batch_size, whole)], key=self.lengths.__getitem__)
            batches += [run[cut : cut + self.batch_size] for cut in range(0, len(run), self.batch_size)]
        if whole < len(order) and not self.drop_last:
            batches.append(order[whole:])
        rng.shuffle(batches)
        return iter(batches)
