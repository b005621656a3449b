"""Teacher-forced measures: perplexity over answer tokens, and exact prediction of the late stage.

corpus perplexity   exp(sum of answer tokens' NLL / number of answer tokens), end token included
sample perplexity   mean over samples of exp(NLL / tokens) of each (the paper's H(D) sums over samples)
late                the same over the tokens of the last stage, from its marker on
late_exact          share of samples in which every token of the last stage is the likeliest one
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from prosg.data.collate import EncodedRow, collate
from prosg.encoded import EncodedPrompt
from prosg.prosg import ProSG

__all__ = ["Perplexity", "batches_by_length", "perplexity"]


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
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt) + len(rows[i].answer))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@torch.no_grad()
def perplexity(
    model: ProSG, rows: Sequence[EncodedRow], batch_size: int = 64, encoded: EncodedPrompt | None = None
) -> Perplexity:
    """Score `rows` under their own updates (none for a bare backbone), or as `encoded` says, row by row.

    Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("perplexity of no rows is undefined")
    device = next(model.parameters()).device
    nll, tokens = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows))
    late_nll, late_tokens = torch.zeros_like(nll), torch.zeros(len(rows))
    exact, late_exact = torch.zeros(len(rows)), torch.zeros(len(rows))
    staged = torch.tensor([row.has_stages for row in rows])
    for indices in batches_by_length(rows, batch_size):
        batch = {k: v.to(device) for k, v in collate([rows[i] for i in indices], late_weight=1.0).items()}
        if encoded is None:
            prompts = model.encode(batch["prompt"], batch["prompt_lengths"])
        else:
            prompts = encoded.take(torch.tensor(indices, device=device))
        scores, right = model.score(prompts, batch["answer"], batch["answer_lengths"])
        position = torch.arange(batch["answer"].shape[1], device=device)
        valid = batch["weights"] > 0
        late = valid & (position >= batch["late_start"].unsqueeze(1))

        def total(values: Tensor, mask: Tensor) -> Tensor:
            return (values.double() * mask).sum(1).cpu()

        nll[indices], tokens[indices] = total(scores, valid), valid.sum(1).float().cpu()
        late_nll[indices], late_tokens[indices] = total(scores, late), late.sum(1).float().cpu()
        exact[indices] = (right | ~valid).all(1).float().cpu()
        known = valid & (position >= batch["late_text"].unsqueeze(1))
        late_exact[indices] = (right | ~known).all(1).float().cpu()
    some = bool(staged.any())
    return Perplexity(
        rows=len(rows),
        tokens=int(tokens.sum()),
        perplexity=float(torch.exp(nll.sum() / tokens.sum())),
        sample_perplexity=float(torch.exp(nll / tokens).mean()),
        exact=float(exact.mean()),
        late_perplexity=float(torch.exp(late_nll[staged].sum() / late_tokens[staged].sum())) if some else None,
        late_exact=float(late_exact[staged].mean()) if some else None,
    )
