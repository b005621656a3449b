"""Which rows a training step reads, in how many parts, and which process reads which part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from prosg.data.collate import LengthBatches

__all__ = ["StepBatches"]


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
