"""Scoring answers token by token: one path for training, perplexities, evaluations and the lm-evaluation-harness.

token 1           predicted by the prompt's own last logits, from the unmodified weights
tokens 2, 3, ...  predicted by the backbone under the update, from the state after the prompt       (eq. 2, 22, 23)

What their losses are: `model.objective`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from prosg.backbones.base import Backbone, DeferredLogits
from prosg.core.checks import check_lengths, check_tokens
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import State, take_rows
from prosg.core.tensors import join_texts, tokens_at, valid_mask
from prosg.core.update import Update
from prosg.model.objective import AnswerLoss, AnswerScores, Objective, Predictions, Teacher, score_predictions

__all__ = [
    "Interruption",
    "answer_loss",
    "read_teacher",
    "score_answer",
    "score_in_one_call",
]


class Interruption(NamedTuple):
    """A change of the recurrent state while an answer is read."""

    position: Tensor
    """(B,) int64: answer tokens that are read before it"""
    change: Callable[[State], State]


def score_answer(
    backbone: Backbone,
    encoded: EncodedPrompt,
    answer: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    *,
    chunk: int | None = None,
) -> AnswerScores:
    """Scores answers under their encoded prompts.

    Args:
        backbone: A backbone that can continue from a state.
        encoded: State, update, last logits and anchor of the prompts.
        answer: Token ids, padded on the right, the end token included.
        lengths: Tokens of each answer, at least 1.
        chunk: Tokens per call of the backbone; None reads the whole answer in one call.

    Raises:
        ValueError: for rows, ids or lengths that do not fit each other, the prompts or the vocabulary.
    """
    read = _read_answer(backbone, encoded, answer, lengths, chunk, None)
    return score_predictions(encoded.logits, read, answer, None).scores


def answer_loss(
    backbone: Backbone,
    encoded: EncodedPrompt,
    answer: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    objective: Objective,
    *,
    interruption: Interruption | None = None,
) -> AnswerLoss:
    """Scores answers under their encoded prompts, with the loss of a training. Each is read in one call, or in two.

    Args:
        backbone: As in `score_answer`.
        encoded: As in `score_answer`.
        answer: As in `score_answer`.
        lengths: As in `score_answer`.
        objective: What the loss is.
        interruption: A change of the state on the way.

    Raises:
        ValueError: for rows, ids or lengths that do not fit each other, the prompts or the vocabulary.
    """
    read = _read_answer(backbone, encoded, answer, lengths, None, interruption)
    return score_predictions(encoded.logits, read, answer, objective)


def _read_answer(
    backbone: Backbone,
    encoded: EncodedPrompt,
    answer: Tensor,
    lengths: Tensor,
    chunk: int | None,
    interruption: Interruption | None,
) -> Predictions:
    """Reads answers from the state, in chunks or up to an interruption and on from it."""
    encoded.check_rows()
    check_answer(answer, lengths, encoded.batch, encoded.logits.shape[1])
    steps = lengths - 1  # tokens that are read to predict the next
    longest = max(int(steps.max()), 1)
    if interruption is not None:
        spans = [
            (torch.zeros_like(steps), interruption.position),
            (interruption.position, steps - interruption.position),
        ]
    else:
        size = chunk or longest
        starts = range(0, longest, size)
        spans = [(torch.full_like(steps, start), (steps - start).clamp(min=0, max=size)) for start in starts]
    state = encoded.state
    parts = []
    for number, (start, count) in enumerate(spans):
        if number and interruption is not None:
            state = interruption.change(state)
        goes_on = number + 1 < len(spans)
        state, read = _read_span(backbone, encoded.replace(state=state), answer, start, count, keep_state=goes_on)
        parts.append(read)
    hidden, rows, places = (torch.cat(tensors) for tensors in zip(*(part[:3] for part in parts), strict=True))
    return Predictions(hidden, rows, places, parts[-1].head)


def score_in_one_call(
    backbone: Backbone,
    prompt: Int[Tensor, "B Tp"],
    prompt_lengths: Int[Tensor, " B"],
    answer: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    encoded: EncodedPrompt | None,
    objective: Objective | None = None,
) -> tuple[AnswerLoss, Tensor]:
    """Scores answers that are read together with their prompts: both in one row, the update on the answer.

    Args:
        backbone: What reads.
        prompt: Token ids of what stands before each answer; a row may be empty.
        prompt_lengths: Tokens of each.
        answer: As in `score_answer`.
        lengths: As in `score_answer`.
        encoded: Has the update, and the logits that predict the first token; None without an update.
        objective: What the loss is; None for scores alone, the loss is then 0.

    Returns:
        Loss and scores, and the logits (B, V) that predicted each answer's first token.
    """
    check_answer(answer, lengths, prompt.shape[0], backbone.config.vocab_size)
    check_lengths(prompt_lengths, prompt.shape[0], prompt.shape[1], least=0, name="prompt_lengths")
    update = None if encoded is None else encoded.update
    (hidden, head), index = _read_joined(backbone, prompt, prompt_lengths, answer, lengths, update)
    if encoded is None:
        first: Tensor = head(tokens_at(hidden, torch.arange(len(answer), device=answer.device), index[:, 0]))
    else:
        first = encoded.logits
    rows, places = valid_mask(lengths, answer.shape[1])[:, 1:].nonzero(as_tuple=True)
    places = places + 1
    read = Predictions(tokens_at(hidden, rows, index[rows, places]), rows, places, head)
    return score_predictions(first, read, answer, objective), first


@torch.no_grad()
def read_teacher(
    backbone: Backbone,
    prompt: Int[Tensor, "B Tp"],
    prompt_lengths: Int[Tensor, " B"],
    answer: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    state: State,
    taught: Bool[Tensor, " B"],
) -> Teacher:
    """Reads the answers of some rows with the unmodified backbone, which has their prompts.

    Args:
        backbone: What reads.
        prompt: Token ids of the prompts.
        prompt_lengths: Tokens of each.
        answer: As in `score_answer`.
        lengths: As in `score_answer`.
        state: After the prompts, of a backbone that can continue; another reads them once more.
        taught: Which rows.
    """
    rows = taught.nonzero().squeeze(1)
    answer, lengths = answer[rows], lengths[rows]
    if not backbone.continues:
        (hidden, _), index = _read_joined(backbone, prompt[rows], prompt_lengths[rows], answer, lengths, None)
        return Teacher(taught, hidden.gather(1, index[:, 1:].unsqueeze(2).expand(-1, -1, hidden.shape[2])))
    # Of an answer of one token nothing is read: its first token has no teacher.
    output = backbone(
        answer[:, : max(answer.shape[1] - 1, 1)],
        take_rows(state, rows),
        lengths=lengths - 1,
        logits="deferred",
        keep_state=False,
    )
    assert output.deferred is not None
    return Teacher(taught, output.deferred.hidden)


def _read_span(
    backbone: Backbone, encoded: EncodedPrompt, answer: Tensor, start: Tensor, count: Tensor, *, keep_state: bool
) -> tuple[State, Predictions]:
    """Reads `count` (B,) answer tokens from `start` (B,), which predict the token after each."""
    time = answer.shape[1]
    longest = max(int(count.max()), 1)
    index = (start.unsqueeze(1) + torch.arange(longest, device=answer.device)).clamp(max=max(time - 2, 0))
    output = backbone(
        answer.gather(1, index),
        encoded.state,
        update=encoded.update,
        anchor=encoded.anchor,
        lengths=count,
        logits="deferred",
        keep_state=keep_state,
    )
    assert output.deferred is not None
    hidden, head = output.deferred
    rows, steps = valid_mask(count, longest).nonzero(as_tuple=True)
    return output.state, Predictions(tokens_at(hidden, rows, steps), rows, index[rows, steps] + 1, head)


def _read_joined(
    backbone: Backbone, prompt: Tensor, prompt_lengths: Tensor, answer: Tensor, lengths: Tensor, update: Update | None
) -> tuple[DeferredLogits, Tensor]:
    """Reads prompt and answer in one row; returns what predicts, and where in it each answer token (B, T) stands."""
    read = prompt_lengths + lengths - 1
    rows = join_texts(prompt, prompt_lengths, answer, max(int(read.max()), 1))
    acts_from = None if update is None else prompt_lengths
    output = backbone(rows, update=update, update_from=acts_from, lengths=read, logits="deferred", keep_state=False)
    assert output.deferred is not None
    place = torch.arange(answer.shape[1], device=answer.device)
    return output.deferred, (prompt_lengths.unsqueeze(1) - 1 + place).clamp(min=0, max=rows.shape[1] - 1)


def check_answer(answer: Tensor, lengths: Tensor, batch: int, vocab_size: int) -> None:
    """Raises ValueError unless answers are `batch` rows of ids of the vocabulary, with lengths that they have."""
    check_tokens(answer, vocab_size, "answer")
    if answer.shape[0] != batch:
        raise ValueError(f"answer has {answer.shape[0]} rows for {batch} prompts")
    check_lengths(lengths, batch, answer.shape[1])
