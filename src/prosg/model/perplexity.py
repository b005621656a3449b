"""Teacher-forced measures over rows: perplexity of answer tokens, and exact prediction of the late stage.

corpus perplexity   exp(sum of answer tokens' NLL / number of answer tokens), end token included
sample perplexity   mean over samples of exp(NLL / tokens) of each (the paper's H(D) sums over samples)
late                the same over the tokens of the last stage, from its marker on
late_exact          share of samples in which every token of the last stage is the likeliest one
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt, Memory
from prosg.data.collate import collate
from prosg.data.encode import EncodedRow
from prosg.model.prosg import ProSG
from prosg.utils.values import exponential

__all__ = ["Perplexity", "RowScore", "batches_by_length", "perplexity", "score_rows", "summarize"]


@dataclass(frozen=True)
class Perplexity:
    """Measures over a set of rows; the late ones are None where no row has stages."""

    rows: int
    tokens: int
    perplexity: float
    sample_perplexity: float
    exact: float
    late_perplexity: float | None
    late_exact: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return asdict(self)


def batches_by_length(rows: Sequence[EncodedRow], batch_size: int) -> Iterator[list[int]]:
    """Indices of the rows, sorted by length, in batches."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, must be at least 1")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].answer))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


class RowScore(NamedTuple):
    """One row's answer, teacher-forced; the late ones are None for a row without stages."""

    nll: float
    """sum over the answer's tokens, nats"""
    tokens: int
    exact: bool
    """whether every token was the likeliest one"""
    late_nll: float | None
    late_tokens: int | None
    late_exact: bool | None


@torch.no_grad()
def score_rows(
    model: ProSG,
    rows: Sequence[EncodedRow],
    batch_size: int = 64,
    encode: Callable[[list[int]], EncodedPrompt] | None = None,
    *,
    memory: Memory | None = None,
    tau: float | None = None,
) -> list[RowScore]:
    """Scores answers, teacher-forced, in batches of like lengths.

    Args:
        model: What is scored.
        rows: Prompts with their answers.
        batch_size: Rows at once.
        encode: Encodes the prompts of some rows, given their indices; by default `ProSG.encode` does.
        memory: What holds the prompts by default, as in `ProSG.encode`.
        tau: Window of an anchor, likewise.

    Raises:
        ValueError: for no rows.
    """
    if not rows:
        raise ValueError("perplexity of no rows is undefined")
    device = next(model.parameters()).device
    found: dict[int, RowScore] = {}
    for indices in batches_by_length(rows, batch_size):
        batch = {k: v.to(device) for k, v in collate([rows[i] for i in indices], late_weight=1.0).items()}
        answers = (batch["answer"], batch["answer_lengths"])
        if encode is None:
            scored = model.score_after(batch["prompt"], batch["prompt_lengths"], *answers, memory=memory, tau=tau)
        else:
            scored = model.score(encode(indices), *answers)
        scores, right = scored.nll, scored.hits
        position = torch.arange(batch["answer"].shape[1], device=device)
        valid = batch["weights"] > 0
        late = valid & (position >= batch["late_start"].unsqueeze(1))
        known = valid & (position >= batch["late_text"].unsqueeze(1))

        def total(values: Tensor, mask: Tensor) -> list[float]:
            return (values.double() * mask).sum(1).tolist()

        whole = zip(total(scores, valid), valid.sum(1).tolist(), (right | ~valid).all(1).tolist(), strict=True)
        last = zip(total(scores, late), late.sum(1).tolist(), (right | ~known).all(1).tolist(), strict=True)
        for i, all_of_it, end in zip(indices, whole, last, strict=True):
            found[i] = RowScore(*all_of_it, *(end if rows[i].has_stages else (None, None, None)))
    return [found[i] for i in range(len(rows))]


def summarize(scores: Sequence[RowScore]) -> Perplexity:
    """The measures over rows."""
    late = [s for s in scores if s.late_nll is not None]
    late_nll, late_tokens = math.fsum(s.late_nll or 0.0 for s in late), sum(s.late_tokens or 0 for s in late)
    return Perplexity(
        rows=len(scores),
        tokens=sum(s.tokens for s in scores),
        perplexity=exponential(math.fsum(s.nll for s in scores) / sum(s.tokens for s in scores)),
        sample_perplexity=math.fsum(exponential(s.nll / s.tokens) for s in scores) / len(scores),
        exact=sum(s.exact for s in scores) / len(scores),
        late_perplexity=exponential(late_nll / late_tokens) if late else None,
        late_exact=sum(bool(s.late_exact) for s in late) / len(late) if late else None,
    )


def perplexity(
    model: ProSG,
    rows: Sequence[EncodedRow],
    batch_size: int = 64,
    *,
    memory: Memory | None = None,
    tau: float | None = None,
) -> Perplexity:
    """The measures of rows, prompts held as `ProSG.encode` says. Raises ValueError for no rows."""
    return summarize(score_rows(model, rows, batch_size, memory=memory, tau=tau))
