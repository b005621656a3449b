"""The controls: whose update acts, and whether the prompt's state is there.

    update  own    the prompt's own update, or its own anchor
            other  another prompt's of the same kind: a fixed derangement, drawn by seed
            mean   the exact mean over training prompts of the kind, of the products dW or of the memories
            none   no update, no anchor
    state   kept   the recurrent state after the prompt
            wiped  the initial state (learned, if it is) instead; the first token still comes from the prompt's logits

An update or an anchor that carries its prompt works as `own` and `wiped`, and fails as `other` and `mean`. One that is
a mere bias works as well with another prompt's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal, NamedTuple

import torch

from prosg.core.encoded import EncodedPrompt, Memory
from prosg.core.tensors import pad
from prosg.model.prosg import ProSG

__all__ = ["CONDITIONS", "LEAST_PROMPTS", "MEAN_PROMPTS", "Condition", "derangement", "encode_training"]

MEAN_PROMPTS = 96
"""Training prompts of a kind that the mean update is taken over."""
LEAST_PROMPTS = 64


class Condition(NamedTuple):
    """Whose update, and which state."""

    update: Literal["own", "other", "mean", "none"]
    state: Literal["kept", "wiped"] = "kept"

    def __str__(self) -> str:
        return self.update if self.state == "kept" else f"{self.update}, {self.state}"

    @property
    def label(self) -> str:
        """What tables call it."""
        if self == ("own", "wiped"):
            return "own, state wiped"
        name = {"own": "own update", "other": "another prompt's", "mean": "the mean update", "none": "no update"}
        return name[self.update] + ", state wiped" * (self.state == "wiped")


CONDITIONS = {
    "own": Condition("own"),
    "other": Condition("other"),
    "mean": Condition("mean"),
    "none": Condition("none"),
    "wiped": Condition("own", "wiped"),
}
"""The conditions that a module is measured under, by their short names."""


def check_partners(groups: Sequence[str], by: str, kinds: Sequence[str] = ()) -> None:
    """Raises ValueError for rows of which a group (kind) has one alone, naming what says how many there are (`by`).

    `kinds` are those that rows are made of in turn, also those beyond the rows that there are.
    """
    counts = Counter(groups)
    if alone := [name for name, number in counts.items() if number < 2]:
        raise ValueError(
            f"another prompt's memory needs two rows of each kind; by {by}, {alone[0]!r} has one, so give "
            f"{2 * len({*counts, *kinds})} or more"
        )


def derangement(groups: Sequence[str], seed: int, prompts: Sequence[str] | None = None) -> list[int]:
    """Draws for each row another row of its group, with another prompt, so that every row is drawn once.

    Args:
        groups: The group (kind of instruction) of each row.
        seed: Of the draw; the same rows and seed give the same partners.
        prompts: Each row's prompt; by default they all differ.

    Raises:
        ValueError: for a group of one row, and one of which more than half of the rows have one prompt.
    """
    texts = [str(i) for i in range(len(groups))] if prompts is None else prompts
    rng = Random(seed)
    partner = [0] * len(groups)
    for group in sorted(set(groups)):
        members = [i for i, name in enumerate(groups) if name == group]
        if len(members) < 2:
            raise ValueError(f"kind {group!r} has one row; another prompt's update needs at least two")
        rng.shuffle(members)
        shift = 1
        if any(texts[here] == texts[there] for here, there in zip(members, members[1:] + members[:1], strict=True)):
            # Equal prompts in a row: a shift by the longest such run parts them all.
            counts = Counter(texts[i] for i in members)
            shift = max(counts.values())
            if 2 * shift > len(members):
                raise ValueError(
                    f"kind {group!r} has one prompt in {shift} of {len(members)} rows; another prompt's update needs "
                    "one for each row"
                )
            members.sort(key=lambda i: (-counts[texts[i]], texts[i]))
        for here, there in zip(members, members[shift:] + members[:shift], strict=True):
            partner[here] = there
    return partner


def encode_training(
    model: ProSG, kind: str, prompts: Sequence[Sequence[int]], memory: Memory
) -> Iterator[EncodedPrompt]:
    """Encodes a kind's training prompts in batches, for means over them.

    Args:
        model: What reads.
        kind: Name of the kind, for the error.
        prompts: Token ids; the first `MEAN_PROMPTS` count.
        memory: As in `ProSG.encode`.

    Raises:
        ValueError: for fewer than `LEAST_PROMPTS` prompts.
    """
    if len(prompts) < LEAST_PROMPTS:
        raise ValueError(f"kind {kind!r} has {len(prompts)} training prompts; a mean over them needs {LEAST_PROMPTS}")
    device = next(model.parameters()).device
    for start in range(0, min(len(prompts), MEAN_PROMPTS), 32):
        batch = prompts[start : start + 32][: MEAN_PROMPTS - start]
        lengths = torch.tensor([len(ids) for ids in batch], device=device)
        yield model.encode(pad(batch).to(device), lengths, memory=memory)
