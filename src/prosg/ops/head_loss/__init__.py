"""Losses of tokens that a head W predicts from hidden states h, without all of their logits at once.

    z = h W^T,  p = softmax(z)
    nll         -log p[target]
    divergence  sum q (log q - log p), q = softmax(z of the teacher): Kullback-Leibler, nats

naive    from whole logits (N, V), differentiated by autograd: any head, and the oracle
pieces   a plain head, some tokens at a time; the forward pass computes the gradients, the backward pass scales them
"""

from __future__ import annotations

from prosg.ops.head_loss.naive import HeadLoss, join_losses, naive_head_loss
from prosg.ops.head_loss.pieces import head_loss, piece_starts

__all__ = ["HeadLoss", "head_loss", "join_losses", "naive_head_loss", "piece_starts"]
