"""The controls: whose update acts, and whether the prompt's state is there.

    update  own    the prompt's own update
            other  another prompt's of the same kind: a fixed derangement, drawn by seed
            mean   the exact mean of the products dW over training prompts of the kind
            none   no update
    state   kept   the recurrent state after the prompt
            wiped  the initial state (learned, if it is) instead; the first token still comes from the prompt's logits

An update that carries its prompt works as `own` and `wiped`, and fails as `other` and `mean`. One that is a mere bias
works as well with another prompt's.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from prosg.core.encoded import EncodedPrompt
from prosg.core.tensors import pad
from prosg.core.update import Update, join_updates, mean_update, take_update_rows
from prosg.data.encode import EncodedRow
from prosg.model.prosg import ProSG

__all__ = ["LEAST_PROMPTS", "MEAN_PROMPTS", "Condition", "Conditions", "derangement", "encode_prompts", "kind_mean"]

MEAN_PROMPTS = 96
"""Training prompts of a kind that the mean update is taken over."""
LEAST_PROMPTS = 64


class Condition(NamedTuple):
    """Whose update, and which state."""

    update: Literal["own", "other", "mean", "none"]
    state: Literal["kept", "wiped"] = "kept"

    def __str__(self) -> str:
        return self.update if self.state == "kept" else f"{self.update}, {self.state}"


def encode_prompts(
    model: ProSG, prompts: Sequence[Sequence[int]], batch_size: int = 64, window: int | None = None
) -> EncodedPrompt:
    """Encode many prompts, batch by batch, in order; window as `ProSG.encode`'s."""
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(prompts), batch_size):
        some = prompts[start : start + batch_size]
        lengths = torch.tensor([len(ids) for ids in some], device=device)
        parts.append(model.encode(pad(some).to(device), lengths, window=window))
    return EncodedPrompt.join(parts)


def derangement(groups: Sequence[str], seed: int) -> Tensor:
    """(N,) for each row another row of its group. ValueError for a group of one."""
    rng = Random(seed)
    partner = [0] * len(groups)
    for group in sorted(set(groups)):
        members = [i for i, name in enumerate(groups) if name == group]
        if len(members) < 2:
            raise ValueError(f"kind {group!r} has one row; another prompt's update needs at least two")
        rng.shuffle(members)
        for here, there in zip(members, members[1:] + members[:1], strict=True):
            partner[here] = there
    return torch.tensor(partner)


def kind_mean(model: ProSG, kind: str, prompts: Sequence[Sequence[int]]) -> Update:
    """The mean update of a kind's training prompts, one row. ValueError where they are too few."""
    if len(prompts) < LEAST_PROMPTS:
        raise ValueError(f"kind {kind!r} has {len(prompts)} training prompts; the mean update needs {LEAST_PROMPTS}")
    parts = (prompts[start : start + 32] for start in range(0, min(len(prompts), MEAN_PROMPTS), 32))
    updates = (encode_prompts(model, part).update for part in parts)
    return mean_update([update for update in updates if update is not None], 1)


class Conditions:
    """The rows' prompts, encoded once, under any condition."""

    def __init__(
        self,
        model: ProSG,
        rows: Sequence[EncodedRow],
        kinds: Sequence[str],
        training: dict[str, list[list[int]]],
        seed: int,
        window: int | None = None,
    ) -> None:
        """`kinds` names each row's kind; `training` holds token ids of training prompts by kind, for the mean."""
        self.model = model
        self.window = window
        self.own = encode_prompts(model, [row.prompt for row in rows], window=window)
        self.kinds = list(kinds)
        self.training = training
        self.seed = seed
        self.prompts = [row.prompt for row in rows]

    def encoded(self, condition: Condition) -> EncodedPrompt:
        """The rows' encoded prompts under a condition."""
        state, update, logits = self.own
        if condition.state == "wiped":
            state = self.model.init_state(self.own.batch)
        if condition.update == "none" or update is None:
            update = None
        elif condition.update == "other":
            update = take_update_rows(update, derangement(self.kinds, self.seed).to(logits.device))
        elif condition.update == "mean":
            update = self._mean()
        return EncodedPrompt(state, update, logits)

    def _mean(self) -> Update:
        means = {kind: kind_mean(self.model, kind, self.training[kind]) for kind in sorted(set(self.kinds))}
        return join_updates([means[kind] for kind in self.kinds])
