"""What answers cost: the negative log-likelihood of their tokens, or the divergence from a teacher's predictions.

Logits (B, T, V) are never whole: `ops.head_loss` computes those of some tokens at a time, padding left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from prosg.backbones.layers import plain_matrix
from prosg.core.tensors import tokens_at
from prosg.ops.head_loss import HeadLoss, head_loss, join_losses, naive_head_loss, piece_starts

__all__ = ["AnswerLoss", "AnswerScores", "Objective", "Predictions", "Teacher", "score_predictions", "token_losses"]


class AnswerScores(NamedTuple):
    """Scores of answer tokens, 0 and False beyond each answer's length."""

    nll: Tensor
    """(B, T) negative log-likelihood of each token, nats, fp32 (fp64 in an fp64 model); without a gradient"""
    hits: Tensor
    """(B, T) bool: whether the token was the likeliest one"""


class AnswerLoss(NamedTuple):
    """What training minimises, and the scores beside it."""

    loss: Tensor
    """() the sum that `Objective` describes, with a gradient"""
    scores: AnswerScores


class Teacher(NamedTuple):
    """What the unmodified backbone, which has its prompts, predicts in some rows (`read_teacher`)."""

    rows: Bool[Tensor, " B"]
    """which rows are taught by it"""
    hidden: Float[Tensor, "R S E"]
    """of these rows, what the head reads after each answer token but the last"""


class Objective(NamedTuple):
    """The loss of a training: the sum over answer tokens of weight times negative log-likelihood.

    In rows that are taught the Kullback-Leibler divergence from the teacher's predictions stands in its place; that of
    their first tokens is 0, for the prompt's own logits predict them.
    """

    weights: Float[Tensor, "B T"]
    teacher: Teacher | None = None


class Predictions(NamedTuple):
    """What predicts tokens after the first of answers: N of them, padding left out."""

    hidden: Tensor
    """(N, E) what the head reads"""
    rows: Tensor
    """(N,) the answer of each"""
    places: Tensor
    """(N,) the place of each in its answer"""
    head: nn.Module


def score_predictions(first: Tensor, later: Predictions, answer: Tensor, objective: Objective | None) -> AnswerLoss:
    """Scores answers.

    Args:
        first: Logits (B, V) that predict the first token of each.
        later: What predicts the others.
        answer: Token ids (B, T).
        objective: What the loss is; None for scores alone, the loss is then 0.
    """
    hidden, rows, places, head = later
    targets = answer[rows, places]
    with torch.set_grad_enabled(objective is not None and torch.is_grad_enabled()):
        if objective is None:
            weights, teacher = torch.zeros(answer.shape, device=answer.device), None
        else:
            weights, teacher = objective
        first_weights, taught = weights[:, 0], None
        if teacher is not None:
            first_weights = first_weights.masked_fill(teacher.rows, 0.0)
            taught = teacher.rows[rows]
        at_start = naive_head_loss(first, answer[:, 0], first_weights)
        nll = at_start.nll.new_zeros(answer.shape)
        hits = torch.zeros_like(answer, dtype=torch.bool)
        nll[:, 0], hits[:, 0] = at_start.nll, at_start.hits
        loss = at_start.loss
        parts: list[slice | Tensor] = [slice(None)] if taught is None else [~taught, taught]
        for chosen in parts:
            row, place = rows[chosen], places[chosen]
            imitated = None
            if teacher is not None and chosen is taught:
                number = teacher.rows.cumsum(0) - 1
                imitated = tokens_at(teacher.hidden, number[row], place - 1)
            scores = token_losses(hidden[chosen], head, targets[chosen], weights[row, place], imitated)
            nll[row, place], hits[row, place] = scores.nll, scores.hits
            loss = loss + scores.loss
    return AnswerLoss(loss, AnswerScores(nll, hits))


def token_losses(
    hidden: Float[Tensor, "N E"],
    head: nn.Module,
    targets: Int[Tensor, " N"],
    weights: Float[Tensor, " N"],
    teacher: Float[Tensor, "N E"] | None = None,
) -> HeadLoss:
    """Scores tokens in pieces; through a head that is no plain matrix, gradients need their logits at once.

    Args:
        hidden: What the head reads, `DeferredLogits.hidden`.
        head: Its head.
        targets: The tokens that came.
        weights: Of each in the loss.
        teacher: What the head reads of the model that is to be imitated; None to learn the targets.
    """
    if (matrix := plain_matrix(head)) is not None:
        return head_loss(hidden, matrix, targets, weights, teacher)
    trained = hidden.requires_grad or any(parameter.requires_grad for parameter in head.parameters())

    def losses(piece: slice) -> HeadLoss:
        with torch.no_grad():
            imitated = None if teacher is None else head(teacher[piece])
        return naive_head_loss(head(hidden[piece]), targets[piece], weights[piece], imitated)

    if torch.is_grad_enabled() and trained:
        return losses(slice(None))
    size = getattr(head, "out_features", hidden.shape[1])
    return join_losses([losses(piece) for piece in piece_starts(len(targets), size, hidden.device)])
