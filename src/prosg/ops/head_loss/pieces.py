"""Losses of tokens some of whose logits exist at a time, with the gradients computed along with them.

    dz = p - onehot(target)   or   p - q        per token, before its weight
    dh = weight dz W,  dW = sum over tokens of (weight dz)^T h

Weights are on the thin side of both products, h and dh, so no pass over the logits is spent on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from prosg.core.tensors import wide
from prosg.ops.head_loss.naive import HeadLoss
from prosg.ops.linear import linear

__all__ = ["head_loss", "piece_starts"]

LOGITS_BYTES = {"cpu": 32 << 20}
"""Of a piece's logits in fp32, by the kind of device. Fewer tokens would make the product slower: it reads all of W."""
OTHER_LOGITS_BYTES = 256 << 20
"""The same for all other kinds."""


def piece_starts(tokens: int, vocabulary: int, device: torch.device, least: int = 1) -> Iterator[slice]:
    """Cuts tokens into pieces of bounded logits, at least one.

    Args:
        tokens: N
        vocabulary: V
        device: Where they are.
        least: Tokens of a piece at least.
    """
    size = max(LOGITS_BYTES.get(device.type, OTHER_LOGITS_BYTES) // (4 * vocabulary), least)
    for start in range(0, max(tokens, 1), size):
        yield slice(start, start + size)


class _HeadLoss(torch.autograd.Function):
    """The gradients of a loss of weight 1, in the forward pass; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, teacher: Tensor | None, dtype: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        into_hidden, into_weight = ctx.needs_input_grad[:2]
        needs_gradient = into_hidden or into_weight
        narrow, seen = weight.to(dtype), hidden.to(dtype)
        total = hidden.new_empty(len(targets), dtype=torch.promote_types(dtype, torch.float32))
        shares = weights.to(total.dtype).unsqueeze(1)
        nll, hits = torch.empty_like(total), torch.empty_like(targets, dtype=torch.bool)
        d_hidden = torch.empty_like(hidden) if into_hidden else None
        d_weight = torch.zeros_like(weight) if into_weight else None
        # Each piece adds to all of dW, so its logits may as well be half as large.
        least = weight.shape[1] // 2 if into_weight else 1
        for piece in piece_starts(len(targets), len(weight), hidden.device, least):
            h, place, share = seen[piece], targets[piece].unsqueeze(1), shares[piece]
            logits = linear(h, narrow)
            hits[piece] = logits.argmax(1) == targets[piece]
            log_p = wide(logits).log_softmax(1)
            del logits
            losses = nll[piece] = -log_p.gather(1, place).squeeze(1)
            q = None
            if teacher is not None:
                log_q = wide(linear(teacher[piece].to(dtype), narrow)).log_softmax(1)
                q = log_q.exp()
                losses = log_q.sub_(log_p).mul_(q).sum(1)
                del log_q
            total[piece] = losses
            if not needs_gradient:
                continue
            dz = log_p.exp_()
            if q is None:
                dz.scatter_add_(1, place, dz.new_full((), -1.0).expand_as(place))
            else:
                dz.sub_(q)
            dz = dz.to(dtype)
            if d_hidden is not None:
                d_hidden[piece] = (dz @ narrow) * share
            if d_weight is not None:
                weighted = (h * share).to(dtype)
                if dtype == d_weight.dtype:
                    d_weight.addmm_(dz.mT, weighted)
                else:
                    d_weight += dz.mT @ weighted
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.mark_non_differentiable(nll, hits)
        return (shares.squeeze(1) * total).sum(), nll, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if float(gradient) == 1:  # scaling W's gradient would make another of its size
            return *ctx.saved_tensors, None, None, None, None
        return *(None if d is None else d * gradient.to(d.dtype) for d in ctx.saved_tensors), None, None, None, None


def head_loss(
    hidden: Float[Tensor, "N E"],
    weight: Float[Tensor, "V E"],
    targets: Int[Tensor, " N"],
    weights: Float[Tensor, " N"],
    teacher: Float[Tensor, "N E"] | None = None,
) -> HeadLoss:
    """Computes the losses of tokens under a head without a bias, in pieces.

    Args:
        hidden: h, what the head reads for each token.
        weight: W, of the head.
        targets: The tokens that came.
        weights: Of each token in the loss; no gradient goes to them.
        teacher: h of the model that is to be imitated, under the same head; None to learn the targets. No gradient goes
            to it.
    """
    kind = hidden.device.type
    narrowed = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if narrowed else hidden.dtype
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()
    with torch.autocast(kind, enabled=False):
        return HeadLoss(*_HeadLoss.apply(hidden, weight, targets, weights, teacher, dtype))  # type: ignore[no-untyped-call]
