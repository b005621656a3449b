"""The decoding loop: the one way in which answers are written, token by token.

    choose a token from the logits -> read it: (state, update, logits) -> (state, update, logits) -> choose ...

The first token comes from the prompt's own last logits; from then on every step runs under the update (figure 3). A
place in a text is an `EncodedPrompt`, whose rows can be taken and joined: `advance` takes one in and gives one out, so
stories can be forked and batches can change between steps.

Where `refresh_every` is set, the state is begun anew so often: from the prompt's end, the answer's last tokens are read
once more. What was written before them is then forgotten, and the prompt is not.

Random numbers are a function of (seed, step, row number): what is drawn for a row does not depend on its batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from operator import and_
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prosg.backbones.base import Backbone, FullError
from prosg.core.encoded import EncodedPrompt
from prosg.core.rng import uniforms
from prosg.core.state import bound_state, limit_memory, map_state
from prosg.core.tensors import CHUNK, chunks, pad
from prosg.core.update import prepare_update
from prosg.generation.length_control import LengthControl
from prosg.generation.sampling import Sampling, pick

__all__ = ["Replay", "Step", "advance", "decode", "draws", "is_finite", "limited", "within_bounds"]

STEPS = 64
"""Steps that `decode` draws random numbers for at once."""
BOUND_EVERY = 32
"""Steps after which memories are kept from outgrowing their type."""


class Step(NamedTuple):
    """One step of the loop: for each of B rows what stands here."""

    tokens: Sequence[int]
    """the token that was chosen"""
    running: Sequence[bool]
    """whether the row had not ended before this token"""
    sentences: Sequence[int]
    """sentences written under length control, this token included"""
    before: EncodedPrompt
    """the place in the text before this token was read"""
    finite: Sequence[bool]
    """False from where a row's logits are no numbers; the row has ended there"""


class Replay(NamedTuple):
    """Prompts that are read again while the answer is written, each time before the token written last."""

    prompts: Sequence[Sequence[int]]
    every: int
    """tokens of the answer from one reading to the next"""


@torch.no_grad()
def advance(backbone: Backbone, encoded: EncodedPrompt, tokens: Tensor, lengths: Tensor | None = None) -> EncodedPrompt:
    """Reads tokens on from a place in a text, under the update and the anchor.

    Args:
        backbone: What reads.
        encoded: State, update, last logits and anchor of B rows.
        tokens: Token ids (B, T), padded on the right.
        lengths: Valid tokens of each row (B,); all of them by default. A row without any stays where it is.

    Returns:
        The place after the tokens.
    """
    state, logits = encoded.state, encoded.logits
    for part, left in chunks(tokens, lengths, CHUNK):
        output = backbone(part, state, update=encoded.update, anchor=encoded.anchor, lengths=left, logits="last")
        assert output.logits is not None
        state = output.state
        logits = output.logits if left is None else torch.where((left > 0).unsqueeze(1), output.logits, logits)
    return encoded.replace(state=state, logits=logits)


def limited(encoded: EncodedPrompt) -> EncodedPrompt:
    """Returns the place with memories within their limit, as answers begin: much may have been read after the prompt.

    Not while it is read: what a text is cut into then would change what comes out.
    """
    if encoded.limit is None:
        return encoded
    state = map_state(torch.clone, encoded.state)
    limit_memory(state, encoded.limit)
    return encoded.replace(state=state)


def within_bounds(encoded: EncodedPrompt, step: int, written: Sequence[int] | None = None) -> EncodedPrompt:
    """Returns the place after `step` steps, its memories bounded and limited; see `bound_state` and `limit_memory`.

    Args:
        encoded: Where the last step led; its state may be written to.
        step: Number of the step; at every 32nd memories are bounded.
        written: Tokens of each row's answer, of which every 32nd limits the row's memory; `step` of all by default.
    """
    if encoded.limit is not None:
        due = [row for row, tokens in enumerate(written or ()) if tokens % BOUND_EVERY == 0]
        if due or (written is None and step % BOUND_EVERY == 0):
            rows = torch.tensor(due, device=encoded.logits.device) if due else None
            limit_memory(encoded.state, encoded.limit, rows)
    return encoded if step % BOUND_EVERY else encoded.replace(state=bound_state(encoded.state))


def is_finite(logits: Tensor) -> list[bool]:
    """Returns in which rows of logits (B, V) a token can be chosen: False for no number, or an infinite one."""
    return [*map(math.isfinite, logits.amax(1).tolist())]


def draws(seed: int | np.ndarray, step: int | np.ndarray, numbers: np.ndarray, device: torch.device) -> Tensor:
    """Returns the random numbers (B,) fp32 by which the rows' next tokens are chosen.

    Args:
        seed: Of the random numbers; also one per row, uint64.
        step: Tokens that were chosen before; also one per row.
        numbers: Row numbers (B,) that the draws belong to.
        device: Where they are needed.
    """
    return torch.from_numpy(uniforms(seed, step, numbers, 1)[:, 0]).float().to(device)


class _Draws:
    """`draws` of the same rows step by step, made for many steps at once."""

    def __init__(self, seed: int, numbers: np.ndarray, device: torch.device) -> None:
        self.seed, self.numbers, self.device = seed, numbers, device

    def __call__(self, step: int) -> Tensor:
        """The numbers (B,) of a step; steps are asked for in their order."""
        if step % STEPS == 0:
            steps = np.repeat(np.arange(step, step + STEPS), len(self.numbers))
            many = draws(self.seed, steps, np.tile(self.numbers, STEPS), self.device)
            self._drawn = many.view(STEPS, len(self.numbers)).unbind()
        return self._drawn[step % STEPS]


def decode(
    backbone: Backbone,
    encoded: EncodedPrompt,
    sampling: Sampling,
    *,
    markers: Sequence[Sequence[int]] | None = None,
    ends_sentence: Tensor | None = None,
    numbers: np.ndarray | None = None,
    replay: Replay | None = None,
    ends: Sequence[Sequence[int]] | None = None,
) -> Iterator[Step]:
    """Writes answers, yielding every step; ends when all rows have ended, or at the longest answer.

    A row for which the model has no more positions ends, too.

    Args:
        backbone: What writes.
        encoded: Where the B rows begin.
        sampling: How tokens are chosen. Stop strings are the business of `prosg.generation.text`.
        markers: Token ids of each row's marker, for length control.
        ends_sentence: (V,) bool, for length control; see `sentence_ends`.
        numbers: Row numbers (B,) that the random draws belong to; 0, 1, ... by default.
        replay: Prompts to read again on the way.
        ends: Ids that end each row's answer; those of `sampling` by default.
    """
    ends = [sampling.ends] * encoded.batch if ends is None else ends
    control = LengthControl(sampling, markers, ends_sentence, encoded.logits, ends)
    device = encoded.logits.device
    if encoded.update is not None:
        encoded = encoded.replace(update=prepare_update(encoded.update, encoded.logits.dtype))
    encoded = begin = limited(encoded)
    recent: deque[Sequence[int]] = deque(maxlen=sampling.refresh_keep)
    numbers = np.arange(encoded.batch) if numbers is None else numbers
    running = finite = [True] * encoded.batch
    random = _Draws(sampling.seed, numbers, device)
    longest = sampling.max_tokens + sampling.longest_story
    for step in range(longest):
        finite = [*map(and_, finite, is_finite(encoded.logits))]
        logits, as_drawn = encoded.logits, not control.forces
        if not all(finite):
            as_drawn = False
            logits = logits.masked_fill(~torch.tensor(finite, device=device).unsqueeze(1), 0.0)
        token = pick(control.mask(logits), control.temperature, random(step), sampling.top_k, sampling.top_p)
        tokens = token.tolist()
        if not as_drawn:
            forced = control.force(tokens)
            tokens = [one if fine else end[0] for one, fine, end in zip(forced, finite, ends, strict=True)]
            token = torch.tensor(tokens, device=device)
        control.update(tokens, step + 1)
        yield Step(tokens, running, control.sentences, encoded, finite)
        running = [going and one not in end for going, one, end in zip(running, tokens, ends, strict=True)]
        if not any(running) or step + 1 == longest:
            return
        recent.append(tokens)
        place, read, lengths = encoded, token.unsqueeze(1), None
        if sampling.refresh_every and (step + 1) % sampling.refresh_every == 0:
            place, read = begin, torch.tensor([*zip(*recent, strict=True)], device=device)
        elif replay is not None and (step + 1) % replay.every == 0:
            texts = [[*prompt, last] for prompt, last in zip(replay.prompts, tokens, strict=True)]
            read, lengths = pad(texts).to(device), torch.tensor([len(text) for text in texts], device=device)
        try:
            encoded = advance(backbone, place, read, lengths)
        except FullError as full:  # rows for which there are no more positions end here, the others go on
            running = [going and not one for going, one in zip(running, full.rows, strict=True)]
            if not any(running):
                return
            some = torch.tensor(running, device=device) * (read.shape[1] if lengths is None else lengths)
            encoded = advance(backbone, place, read, some)
        encoded = within_bounds(encoded, step + 1)
