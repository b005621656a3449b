"""Sampling options, and the choice of the next token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from prosg.utils.values import check_fields

__all__ = ["Sampling", "SamplingOptions", "pick"]


HOTTEST = 1000.0
"""Greatest temperature; under it every token is about as likely as any other."""
MOST_ORDERED = 128
"""Tokens that are put in order for `top_p` at first, the likeliest; they mostly hold as much."""


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling`, for functions that take them as keywords."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    stop: Sequence[str]
    seed: int
    hold_until: int
    force_marker: str | Sequence[str]
    late_temperature: float
    end_token: int | Sequence[int]
    tokens_per_sentence: int
    refresh_every: int
    refresh_keep: int


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when an answer ends.

    Attributes:
        max_tokens: Longest answer, tokens; a story that is held may take `tokens_per_sentence` more per sentence.
        temperature: 0 takes the likeliest token.
        top_k: Draw from the k likeliest tokens; 0 from all.
        top_p: Draw from the likeliest tokens that hold this much probability.
        stop: Strings at which the answer ends; they are not part of it.
        seed: Of the random numbers.
        hold_until: Sentences to write before the marker; 0 leaves the length to the model.
        force_marker: Text that opens the late stage. In Python also one per prompt.
        late_temperature: Temperature from the marker on.
        end_token: Id of the token that ends an answer, or several.
        tokens_per_sentence: Tokens that a held story may take per sentence, on average, before its marker is forced.
        refresh_every: Begin the state anew from the prompt's end each time so many tokens of the answer have been
            written; 0 never does.
        refresh_keep: Tokens at the answer's end that are then read once more.
    """

    max_tokens: int = 256
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    stop: Sequence[str] = field(default_factory=tuple)
    seed: int = 0
    hold_until: int = 0
    force_marker: str | Sequence[str] = ""
    late_temperature: float = 0.0
    end_token: int | Sequence[int] = 0
    tokens_per_sentence: int = 24
    refresh_every: int = 0
    refresh_keep: int = 50

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("max_tokens", "tokens_per_sentence"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("temperature", "late_temperature"):
            if getattr(self, name) > HOTTEST:
                raise ValueError(f"{name} is {getattr(self, name):g}, must be at most {HOTTEST:g}")
        for name in ("temperature", "late_temperature", "top_k", "hold_until", "refresh_every", "refresh_keep"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, must not be negative")
        if self.refresh_every and not self.refresh_keep:
            raise ValueError(
                "refresh_keep is 0; a state that is begun anew reads at least the last token, so give 1 or more"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, must be above 0 and at most 1")
        if not self.ends:
            raise ValueError("end_token is empty; give at least one id")
        if isinstance(self.stop, str):  # a string is a sequence of strings, too: its characters
            object.__setattr__(self, "stop", (self.stop,))
        if not all(self.stop):
            raise ValueError("a stop string is empty; every answer would end at once")
        if self.hold_until and not (self.force_marker and all(self.force_marker)):
            raise ValueError("hold_until needs force_marker: the text that opens the late stage")

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of the tokens that end an answer."""
        return (self.end_token,) if isinstance(self.end_token, int) else tuple(self.end_token)

    @property
    def longest_story(self) -> int:
        """Tokens after which a held story ends although it has not ended its sentences."""
        return self.hold_until * self.tokens_per_sentence


def pick(
    logits: Float[Tensor, "B V"],
    temperature: Float[Tensor, " B"],
    numbers: Float[Tensor, " B"],
    top_k: int | Int[Tensor, " B"] = 0,
    top_p: float | Float[Tensor, " B"] = 1.0,
) -> Tensor:
    """Draws token ids (B,) by the inverse of the cumulative distribution at `numbers` in [0, 1).

    Args:
        logits: Of the next token.
        temperature: Per row; 0 takes the likeliest token.
        numbers: Uniform random numbers, one per row.
        top_k: Draw from the k likeliest tokens, and their equals; 0 from all. Also one per row.
        top_p: Draw from the likeliest tokens that hold this much probability, of equals those of the lowest ids. Also
            one per row.
    """
    logits = logits.detach() if logits.dtype.itemsize >= 4 else logits.detach().float()  # NumPy has no bf16
    top_k, top_p = (torch.as_tensor(option, device=logits.device).expand(len(logits)) for option in (top_k, top_p))
    inputs, warm = (logits, temperature, numbers, top_k, top_p), temperature > 0
    return _draw(*inputs) if bool(warm.all()) else _change_rows(_likeliest(logits), warm, _draw, *inputs)


def _change_rows(values: Tensor, rows: Tensor, change: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Returns `values` (B, ...) with the rows where `rows` (B,) is true replaced by `change` of the inputs' rows."""
    if bool(rows.all()):
        return change(*inputs)
    if not bool(rows.any()):
        return values
    index = rows.nonzero().squeeze(1)
    return values.index_copy(0, index, change(*(part[index] for part in inputs)))


def _likeliest(logits: Tensor) -> Tensor:
    """Token ids (B,) of the greatest logits, the lowest id among equals."""
    if logits.is_cpu:  # NumPy's argmax is vectorised, PyTorch's is not
        return torch.from_numpy(np.argmax(logits.numpy(), 1))
    return logits.argmax(1)


def _greatest(values: Tensor, count: int) -> Tensor:
    """The `count` greatest values (B, count) of each row of (B, V), in descending order."""
    if count < values.shape[1] or not values.is_cpu:
        return values.topk(count).values
    # NumPy sorts values alone, vectorised; PyTorch sorts their indices, too
    return torch.from_numpy(np.sort(values.numpy(), 1)[:, ::-1].copy())


def _draw(logits: Tensor, temperature: Tensor, numbers: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Token ids (B,) that are drawn at temperatures above 0."""
    warmth = temperature.clamp(min=1e-6).unsqueeze(1)
    scaled = logits.float() / warmth
    scaled = _change_rows(scaled, ~scaled.amax(1).isfinite(), _scale_from_greatest, logits, warmth)
    cut = (top_k > 0) & (top_k < scaled.shape[1])
    p = torch.softmax(_change_rows(scaled, cut, _keep_likeliest, scaled, top_k), 1)
    p = _change_rows(p, top_p < 1, _keep_share, p, top_p)  # 1 keeps all; by rounded sums it could keep less
    total = p.cumsum(1)
    whole = total[:, -1:]
    # A product that rounds up to the total would point behind the last token that may be drawn.
    below = torch.nextafter(whole, whole.new_zeros(()))
    target = torch.minimum(numbers.unsqueeze(1).to(total.dtype) * whole, below)
    return torch.searchsorted(total, target, right=True).squeeze(1)


def _scale_from_greatest(logits: Tensor, warmth: Tensor) -> Tensor:
    """Logits (B, V) by temperatures (B, 1), the greatest of each row as 0: so that their quotients fit fp32."""
    return (logits - logits.amax(1, keepdim=True)).float() / warmth


def _keep_likeliest(scaled: Tensor, top_k: Tensor) -> Tensor:
    """Logits (B, V) that are -inf but for the `top_k` (B,) greatest of each row, and their equals."""
    least = _greatest(scaled, int(top_k.max())).gather(1, top_k.unsqueeze(1) - 1)
    return torch.where(scaled < least, -torch.inf, scaled)


def _keep_share(p: Tensor, top_p: Tensor, most: int = MOST_ORDERED) -> Tensor:
    """Probabilities (B, V) that are 0 but for the greatest, which hold `top_p` (B,).

    All are put in order only in rows whose `most` greatest hold less than that.
    """
    most = min(most, p.shape[1])
    ordered = _greatest(p, most)
    before = ordered.cumsum(1) - ordered
    count = (before < top_p.unsqueeze(1)).sum(1, keepdim=True).clamp(min=1)  # a share may round to 0
    least = ordered.gather(1, count - 1)
    kept = torch.where(p < least, 0.0, p)
    is_tied = (count < most) & (ordered.gather(1, count.clamp(max=most - 1)) == least)
    equals = count - (ordered > least).sum(1, keepdim=True)
    kept = _change_rows(kept, is_tied.squeeze(1), _keep_first_equals, kept, least, equals)
    if most == p.shape[1]:
        return kept
    return _change_rows(kept, count.squeeze(1) == most, partial(_keep_share, most=p.shape[1]), p, top_p)


def _keep_first_equals(p: Tensor, value: Tensor, count: Tensor) -> Tensor:
    """Probabilities (B, V) of which those that equal `value` (B, 1) are 0 but for the first `count` (B, 1)."""
    equal = p == value
    return torch.where(equal & (equal.cumsum(1) > count), 0.0, p)
