"""Scoring answers token by token: one path for training, perplexities, evaluations and the lm-evaluation-harness.

token 1           predicted by the prompt's own last logits, from the unmodified weights
tokens 2, 3, ...  predicted by the backbone under the update, from the state after the prompt       (eq. 2, 22, 23)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from prosg.backbones.base import Backbone
from prosg.core.checks import check_lengths, check_tokens
from prosg.core.encoded import EncodedPrompt
from prosg.core.state import State
from prosg.core.tensors import join_texts, valid_mask, wide
from prosg.core.update import Update

__all__ = [
    "AnswerScores",
    "Interruption",
    "TaughtScores",
    "answer_logits",
    "score_answer",
    "score_in_one_call",
    "score_taught",
    "token_scores",
]


class AnswerScores(NamedTuple):
    """Scores of answer tokens, 0 and False beyond each answer's length."""

    nll: Tensor
    """(B, T) negative log-likelihood of each token, nats, fp32 (fp64 in an fp64 model)"""
    hits: Tensor
    """(B, T) bool: whether the token was the likeliest one"""


class TaughtScores(NamedTuple):
    """`AnswerScores`, and how far the predictions are from a teacher's."""

    nll: Tensor
    """(B, T) as in `AnswerScores`"""
    hits: Tensor
    """(B, T) as in `AnswerScores`"""
    divergence: Tensor | None = None
    """(B, T) Kullback-Leibler divergence from the teacher's predictions, nats; None without a teacher"""

    def plain(self) -> AnswerScores:
        """Leaves the teacher out."""
        return AnswerScores(self.nll, self.hits)


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
    interruption: Interruption | None = None,
) -> AnswerScores:
    """Scores answers under their encoded prompts.

    Args:
        backbone: A backbone that can continue from a state.
        encoded: State, update, last logits and anchor of the prompts.
        answer: Token ids, padded on the right, the end token included.
        lengths: Tokens of each answer, at least 1.
        chunk: Tokens per call of the backbone; None reads the whole answer in one call, as gradients need it.
        interruption: A change of the state on the way (training).

    Raises:
        ValueError: for rows, ids or lengths that do not fit each other, the prompts or the vocabulary.
    """
    return score_taught(backbone, encoded, answer, lengths, None, chunk=chunk, interruption=interruption).plain()


def score_taught(
    backbone: Backbone,
    encoded: EncodedPrompt,
    answer: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    teacher: Float[Tensor, "B S V"] | None,
    *,
    chunk: int | None = None,
    interruption: Interruption | None = None,
) -> TaughtScores:
    """`score_answer`, beside a teacher's logits (`answer_logits`) if there is one."""
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
        state, scores = _score_span(backbone, encoded.replace(state=state), answer, start, count, teacher)
        parts.append(scores)
    return _with_first_token(encoded.logits, answer, functools.reduce(_added, parts))


def score_in_one_call(
    backbone: Backbone,
    prompt: Int[Tensor, "B Tp"],
    prompt_lengths: Int[Tensor, " B"],
    answer: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    encoded: EncodedPrompt | None,
    teacher: Float[Tensor, "B S V"] | None = None,
) -> tuple[TaughtScores, Tensor]:
    """Scores answers with a backbone that cannot continue: prompt and answer in one row, the update on the answer.

    Args:
        backbone: What reads.
        prompt: Token ids of what stands before each answer; a row may be empty.
        prompt_lengths: Tokens of each.
        answer: As in `score_answer`.
        lengths: As in `score_answer`.
        encoded: Has the update, and the logits that predict the first token; None without an update.
        teacher: As in `score_taught`.

    Returns:
        The scores, and the logits (B, V) that predicted each answer's first token in this call.
    """
    check_answer(answer, lengths, prompt.shape[0], backbone.config.vocab_size)
    check_lengths(prompt_lengths, prompt.shape[0], prompt.shape[1], least=0, name="prompt_lengths")
    logits = _joined_logits(
        backbone, prompt, prompt_lengths, answer, lengths, None if encoded is None else encoded.update
    )
    later = token_scores(logits[:, 1:], answer[:, 1:], valid_mask(lengths - 1, answer.shape[1] - 1), teacher)
    first = logits[:, 0] if encoded is None else encoded.logits
    return _with_first_token(first, answer, later), logits[:, 0]


@torch.no_grad()
def answer_logits(
    backbone: Backbone,
    prompt: Int[Tensor, "B Tp"],
    prompt_lengths: Int[Tensor, " B"],
    answer: Int[Tensor, "B T"],
    lengths: Int[Tensor, " B"],
    state: State,
) -> Float[Tensor, "B S V"]:
    """Returns what the unmodified backbone, which has its prompts, predicts after each answer token but the last.

    Args:
        backbone: What reads.
        prompt: Token ids of the prompts.
        prompt_lengths: Tokens of each.
        answer: As in `score_answer`, S + 1 tokens.
        lengths: As in `score_answer`.
        state: After the prompts, of a backbone that can continue; another reads them once more.
    """
    if not backbone.continues:
        return _joined_logits(backbone, prompt, prompt_lengths, answer, lengths, None)[:, 1:]
    if answer.shape[1] == 1:
        return answer.new_zeros(answer.shape[0], 0, backbone.config.vocab_size, dtype=torch.float32)
    output = backbone(answer[:, :-1], state, lengths=lengths - 1, keep_state=False)
    assert output.logits is not None
    return output.logits


def _joined_logits(
    backbone: Backbone, prompt: Tensor, prompt_lengths: Tensor, answer: Tensor, lengths: Tensor, update: Update | None
) -> Tensor:
    """Logits (B, T, V) that predict each answer token, of prompt and answer read in one row."""
    read = prompt_lengths + lengths - 1
    rows = join_texts(prompt, prompt_lengths, answer, max(int(read.max()), 1))
    output = backbone(rows, update=update, update_from=prompt_lengths, lengths=read, keep_state=False)
    assert output.logits is not None
    place = torch.arange(answer.shape[1], device=answer.device)
    index = (prompt_lengths.unsqueeze(1) - 1 + place).clamp(min=0, max=rows.shape[1] - 1)
    return output.logits.gather(1, index.unsqueeze(2).expand(-1, -1, output.logits.shape[2]))


def check_answer(answer: Tensor, lengths: Tensor, batch: int, vocab_size: int) -> None:
    """Raises ValueError unless answers are `batch` rows of ids of the vocabulary, with lengths that they have."""
    check_tokens(answer, vocab_size, "answer")
    if answer.shape[0] != batch:
        raise ValueError(f"answer has {answer.shape[0]} rows for {batch} prompts")
    check_lengths(lengths, batch, answer.shape[1])


def token_scores(
    logits: Float[Tensor, "B T V"],
    targets: Int[Tensor, "B T"],
    valid: Tensor,
    teacher: Float[Tensor, "B T V"] | None = None,
) -> TaughtScores:
    """Scores of targets under logits, and how far these are from a teacher's; nothing where not valid (B, T)."""
    nll = F.cross_entropy(wide(logits.flatten(0, 1)), targets.flatten(), reduction="none").view_as(targets)
    divergence = None
    if teacher is not None:
        own, wanted = wide(logits).log_softmax(2), wide(teacher).log_softmax(2)
        divergence = F.kl_div(own, wanted, reduction="none", log_target=True).sum(2) * valid
    return TaughtScores(nll * valid, (logits.argmax(2) == targets) & valid, divergence)


def _added(one: TaughtScores, other: TaughtScores) -> TaughtScores:
    """Scores of two spans of the same answers."""
    both = None
    if one.divergence is not None and other.divergence is not None:
        both = one.divergence + other.divergence
    return TaughtScores(one.nll + other.nll, one.hits | other.hits, both)


def _score_span(
    backbone: Backbone, encoded: EncodedPrompt, answer: Tensor, start: Tensor, count: Tensor, teacher: Tensor | None
) -> tuple[State, TaughtScores]:
    """Reads `count` (B,) answer tokens from `start` (B,); (B, T - 1) scores of the tokens after each."""
    batch, time = answer.shape
    longest = max(int(count.max()), 1)
    index = start.unsqueeze(1) + torch.arange(longest, device=answer.device)
    index = index.clamp(max=time - 2) if time > 1 else index * 0
    tokens = answer.gather(1, index)
    output = backbone(tokens, encoded.state, update=encoded.update, anchor=encoded.anchor, lengths=count)
    assert output.logits is not None
    targets = answer.gather(1, (index + 1).clamp(max=time - 1))
    if teacher is not None and time > 1:
        teacher = teacher.gather(1, index.unsqueeze(2).expand(-1, -1, teacher.shape[2]))
    scores = token_scores(output.logits, targets, valid_mask(count, longest), teacher if time > 1 else None)

    def placed(values: Tensor) -> Tensor:
        whole = values.new_zeros(batch, max(time - 1, 1)).scatter_add(1, index, values)
        return whole[:, : time - 1]

    nll = placed(scores.nll)
    divergence = None if scores.divergence is None else placed(scores.divergence)
    return output.state, TaughtScores(nll, placed(scores.hits.to(nll.dtype)) > 0, divergence)


def _with_first_token(logits: Tensor, answer: Tensor, later: TaughtScores) -> TaughtScores:
    """Puts the first token, which the logits (B, V) predict, in front."""
    first = F.cross_entropy(wide(logits), answer[:, 0], reduction="none").unsqueeze(1)
    hit = (logits.argmax(1) == answer[:, 0]).unsqueeze(1)
    divergence = None  # of the first token it is 0: the prompt's own logits predict it
    if later.divergence is not None:
        divergence = torch.cat([torch.zeros_like(first), later.divergence], 1)
    return TaughtScores(torch.cat([first, later.nll], 1), torch.cat([hit, later.hits], 1), divergence)
