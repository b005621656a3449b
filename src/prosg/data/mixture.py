"""Training rows of several kinds, mixed by weight."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
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
        weights: Kind -> weight. A kind with * in it stands for all that match, together: composed-*.
        seed: Of the choice.

    Raises:
        ValueError: for a kind without rows, naming the kinds that there are, and for one that two weights name.
    """
    kinds = {row.kind for row in rows}
    named = {name: {kind for kind in kinds if _is_named(kind, name)} for name in weights}
    if missing := [name for name, found in named.items() if not found]:
        known = ", ".join(sorted(filter(None, kinds))) or "none: no row names its kind"
        raise ValueError(f"mix names {', '.join(missing)}, of which there are no rows; kinds of the rows: {known}")
    if twice := [kind for kind in sorted(kinds) if sum(kind in found for found in named.values()) > 1]:
        by = " and ".join(name for name, found in named.items() if twice[0] in found)
        raise ValueError(f"mix names {twice[0]} by {by}; allowed: each kind once")
    pools = {name: [row for row in rows if row.kind in found] for name, found in named.items()}
    total, whole = sum(map(len, pools.values())), sum(weights.values())
    mixed: list[EncodedRow] = []
    for name, pool in pools.items():
        Random(f"{seed}/{name}").shuffle(pool)
        mixed += islice(chain.from_iterable(repeat(pool)), max(round(total * weights[name] / whole), 1))
    return mixed


def _is_named(kind: str, name: str) -> bool:
    """Whether a name stands for a kind; * alone is a wildcard, whatever else file names' patterns have."""
    return kind == name if "*" not in name else fnmatchcase(kind, re.sub(r"[?\[]", r"[\g<0>]", name))
