"""After a module's training: which prompts it knows (`prosg.model.familiarity`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from prosg.core.tensors import pad
from prosg.data.encode import EncodedRow
from prosg.data.joined import sample_rows
from prosg.model.familiarity import LEAST_PROMPTS, Familiarity
from prosg.model.prosg import ProSG
from prosg.model.reading import read_prompt
from prosg.model.synthesizer import Synthesizer
from prosg.utils import distributed
from prosg.utils.progress import Progress
from prosg.utils.tables import counted

__all__ = ["learn_prompts", "reading_time", "too_few"]

MOST_PROMPTS = 4096
BATCH = 32
HELD_OUT = 0.2
"""Share of the prompts that the threshold is taken from. Not from validation rows, which may be of other sorts."""
LEAST_DISTINCT = round(LEAST_PROMPTS / HELD_OUT)
"""Fewest distinct prompts of a training whose module tells which ones it knows."""


def too_few(rows: Sequence[EncodedRow]) -> str:
    """Says that there are too few prompts to tell which ones a module knows; "" where there are enough."""
    distinct = len(_distinct(rows))
    if distinct >= LEAST_DISTINCT:
        return ""
    return (
        f"{counted(distinct, 'distinct prompt')}: too few to tell which prompts the module knows, for which it takes "
        f"{LEAST_DISTINCT}; every prompt will get an update (memory update, not auto)"
    )


def learn_prompts(model: ProSG, rows: Sequence[EncodedRow], share: float, seed: int, tell: Progress) -> None:
    """Gives a module the prompts that it knows; says why not where it cannot.

    Args:
        model: With a trained module.
        rows: What it was trained on.
        share: Share of prompts like those that is to be known.
        seed: Of the draw of prompts.
        tell: Gets the share done.
    """
    synthesizer = model.synthesizer
    assert isinstance(synthesizer, Synthesizer)
    if "inputs" not in synthesizer.taps:
        return  # it reads too little of a prompt to tell; `idle_options` says so
    synthesizer.familiarity = None
    if reason := too_few(rows):
        distributed.print_once(reason)
        return
    prompts = _distinct(rows)
    Random(seed).shuffle(prompts)
    held = round(HELD_OUT * len(prompts))
    prompts, others = prompts[held:], prompts[:held]
    familiarity = Familiarity(synthesizer.input_widths).to(model.device)
    synthesizer.familiarity = familiarity
    means = _means(model, prompts + others, tell)
    familiarity.fit(means[: len(prompts)], means[len(prompts) :], share)


def reading_time(model: ProSG, rows: Sequence[EncodedRow]) -> tuple[int, float]:
    """Returns how many prompts `learn_prompts` reads, and about how many seconds it takes, from one batch of them."""
    synthesizer = model.synthesizer
    if not isinstance(synthesizer, Synthesizer) or "inputs" not in synthesizer.taps or too_few(rows):
        return 0, 0.0
    prompts = _distinct(rows)
    had, synthesizer.familiarity = synthesizer.familiarity, Familiarity(synthesizer.input_widths).to(model.device)
    begun = time.perf_counter()
    _means(model, prompts[:BATCH], lambda share, note="": None)
    seconds = time.perf_counter() - begun
    synthesizer.familiarity = had
    return len(prompts), seconds * sum(map(len, prompts)) / sum(map(len, prompts[:BATCH]))


def _distinct(rows: Sequence[EncodedRow]) -> list[tuple[int, ...]]:
    """Distinct prompts, at most `MOST_PROMPTS`, evenly spread over the rows."""
    prompts = list(dict.fromkeys(tuple(row.prompt) for row in sample_rows(rows, MOST_PROMPTS)))
    count = min(len(prompts), MOST_PROMPTS)
    return [prompts[i * len(prompts) // count] for i in range(count)]


@torch.no_grad()
def _means(model: ProSG, prompts: Sequence[tuple[int, ...]], tell: Progress) -> Tensor:
    """The mean inputs (N, D) of N prompts."""
    synthesizer = model.synthesizer
    assert synthesizer is not None
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    means = []
    for start in range(0, len(order), BATCH):
        tell(start / len(order), "which prompts it knows")
        batch = [prompts[number] for number in order[start : start + BATCH]]
        lengths = torch.tensor([len(ids) for ids in batch], device=model.device)
        tokens = pad([list(ids) for ids in batch]).to(model.device)
        chunk = model.chunk if model.backbone.continues else tokens.shape[1]
        reads = synthesizer.init(lengths)
        _, reads, _ = read_prompt(model.backbone, tokens, lengths, None, synthesizer, reads, chunk=chunk)
        assert reads.inputs is not None
        means.append(reads.inputs / lengths.unsqueeze(1))
    return torch.cat(means)[torch.tensor(order).argsort().to(model.device)]
