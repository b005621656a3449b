"""Losses of tokens from whole logits: the oracle of the pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prosg.core.tensors import wide

__all__ = ["HeadLoss", "join_losses", "naive_head_loss"]


class HeadLoss(NamedTuple):
    """Losses of N tokens, fp32 (fp64 in an fp64 model)."""

    loss: Float[Tensor, ""]
    """Sum of weights times nll, or times the divergence where there is a teacher. It alone has a gradient."""
    nll: Float[Tensor, " N"]
    """Negative log-likelihood of each target, nats"""
    hits: Bool[Tensor, " N"]
    """Whether the target was the likeliest token"""


def naive_head_loss(
    logits: Float[Tensor, "N V"],
    targets: Int[Tensor, " N"],
    weights: Float[Tensor, " N"],
    teacher: Float[Tensor, "N V"] | None = None,
) -> HeadLoss:
    """Computes the losses from logits.

    Args:
        logits: z of each token.
        targets: The tokens that came.
        weights: Of each token in the loss.
        teacher: z of the model that is to be imitated; None to learn the targets.
    """
    log_p = wide(logits).log_softmax(1)
    nll = -log_p.gather(1, targets.unsqueeze(1)).squeeze(1)
    losses = nll
    if teacher is not None:
        log_q = wide(teacher).log_softmax(1)
        losses = (log_q.exp() * (log_q - log_p)).sum(1)
    return HeadLoss((weights * losses).sum(), nll.detach(), logits.argmax(1) == targets)


def join_losses(parts: Sequence[HeadLoss]) -> HeadLoss:
    """Returns the losses of several runs of tokens as those of one."""
    if len(parts) == 1:
        return parts[0]
    losses, nll, hits = zip(*parts, strict=True)
    return HeadLoss(torch.stack(losses).sum(), torch.cat(nll), torch.cat(hits))
