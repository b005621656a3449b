"""Training rows of several kinds, mixed by weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, islice, repeat
from random import Random

from prosg.data.encode import EncodedRow

__all__ = ["mix_rows", "parse_mix"]


def parse_mix(entries: Sequence[str]) -> dict[str, float]:
    """Reads weights written as kind=weight.

    Raises:
        ValueError: for another form, a weight that is not above 0, and a kind that is named twice.
    """
    weights: dict[str, float] = {}
    for entry in entries:
        kind, _, text = entry.rpartition("=")
        try:
            weight = float(text)
        except ValueError:
            weight = 0.0
        if not kind or not 0 < weight < float("inf"):
            raise ValueError(f"mix has {entry!r}; allowed: kind=weight, with a weight above 0, like passage=2")
        if kind in weights:
            raise ValueError(f"mix names {kind!r} twice; allowed: each kind once")
        weights[kind] = weight
    return weights


def mix_rows(rows: Sequence[EncodedRow], weights: Mapping[str, float], seed: int) -> list[EncodedRow]:
    """Returns as many rows as the named kinds have, each kind with its share of them.

    A kind with more rows than its share gives a random part of them, one with fewer repeats its own, each about as
    often. Rows of other kinds are left out.

    Args:
        rows: Rows of several kinds.
        weights: Kind -> weight.
        seed: Of the choice.

    Raises:
        ValueError: for a kind without rows, naming the kinds that there are.
    """
    by_kind: dict[str, list[EncodedRow]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind].append(row)
    if missing := [kind for kind in weights if kind not in by_kind]:
        known = ", ".join(sorted(filter(None, by_kind))) or "none: no row names its kind"
        raise ValueError(f"mix names {', '.join(missing)}, of which there are no rows; kinds of the rows: {known}")
    total, whole = sum(len(by_kind[kind]) for kind in weights), sum(weights.values())
    mixed: list[EncodedRow] = []
    for kind, weight in weights.items():
        own = by_kind[kind]
        Random(f"{seed}/{kind}").shuffle(own)
        mixed += islice(chain.from_iterable(repeat(own)), max(round(total * weight / whole), 1))
    return mixed
