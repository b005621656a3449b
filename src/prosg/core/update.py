"""The update: what a prompt adds to the weights of the projections, as a value.

    y = (W + dW) x,  dW = b @ a                                               eq. 8-12, 20

    a   (B, r, I)            synthesized for each prompt                      A of eq. 20
    b   (O, r) or (B, O, r)  learned, or synthesized for each prompt too      B of eq. 20

B batch, T time, I inputs and O outputs of a projection, r rank (the paper's n).

An update is an activation, not a parameter: gradients flow through it, every row of a batch has its own, and it is
passed as an argument, never stored on a module. Factors are fp32 and are cast to the type of the activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = [
    "LowRank",
    "PreparedUpdate",
    "Site",
    "Update",
    "acting_rows",
    "add_delta",
    "batch_size",
    "check_update",
    "detach_update",
    "join_updates",
    "keep_rows",
    "mean_update",
    "pad_rank",
    "prepare_update",
    "project",
    "replace_update_rows",
    "take_update_rows",
]


class Site(NamedTuple):
    """A projection that updates act on, written "3.key": `name` in the time-mixing block of layer `layer`."""

    layer: int
    name: str

    def __str__(self) -> str:
        return f"{self.layer}.{self.name}"


class LowRank(NamedTuple):
    """The weight change dW = b @ a of one site, for every row of a batch (eq. 20)."""

    a: Tensor
    """(B, r, I)"""
    b: Tensor
    """(O, r), shared by the rows, or (B, O, r)"""

    def rows(self) -> LowRank:
        """Returns the same change with `b` expanded to (B, O, r)."""
        if self.b.dim() == 3:
            return self
        return LowRank(self.a, self.b.expand(self.a.shape[0], *self.b.shape))

    def dense(self) -> Float[Tensor, "B O I"]:
        """Returns dW as matrices."""
        return self.b @ self.a


Update = Mapping[Site, LowRank]
"""The weight changes of all sites, for the same rows at every site. A site that is missing is left unchanged."""


def keep_rows(update: Update, rows: Bool[Tensor, " B"]) -> Update:
    """Returns an update that is zero in all but these rows."""
    left_out = ~rows.view(-1, 1, 1)
    return {site: LowRank(delta.a.masked_fill(left_out, 0.0), delta.b) for site, delta in update.items()}


def acting_rows(update: Update) -> Bool[Tensor, " B"]:
    """Returns in which rows an update changes anything."""
    acts = [(delta.a != 0).flatten(1).any(1) & (delta.rows().b != 0).flatten(1).any(1) for delta in update.values()]
    return torch.stack(acts).any(0)


def project(
    linear: nn.Module,
    x: Float[Tensor, "B T I"],
    delta: LowRank | None,
    active: Float[Tensor, "B T 1"] | None = None,
) -> Float[Tensor, "B T O"]:
    """Applies a projection under an update: y = W x + b (a x) (eq. 8-12).

    The module is called rather than its weight read, so that wrapped (PEFT) and quantised layers work too.

    Args:
        linear: The projection W, with or without a bias.
        x: Its inputs.
        delta: The site's weight change; None leaves W unchanged.
        active: 1 at positions where the update acts, 0 elsewhere; everywhere by default.
    """
    y: Tensor = linear(x)
    return y if delta is None else add_delta(y, x, delta, active)


def add_delta(
    y: Float[Tensor, "B T O"],
    x: Float[Tensor, "B T I"],
    delta: LowRank,
    active: Float[Tensor, "B T 1"] | None = None,
) -> Float[Tensor, "B T O"]:
    """Returns y + b (a x): turns the output y = W x of a projection into (W + dW) x. `active` as in `project`."""
    if active is not None:
        x = x * active
    return y + (x @ delta.a.to(x.dtype).mT) @ delta.b.to(x.dtype).mT


def check_update(update: Update, sites: Mapping[Site, tuple[int, int]], batch: int) -> None:
    """Raises ValueError unless every factor fits a site of shape (O, I) and a batch of `batch` rows."""
    for site, delta in update.items():
        if site not in sites:
            raise ValueError(f"update for unknown site {site}; sites are {', '.join(map(str, sites))}")
        out, inp = sites[site]
        for name, factor in zip(("a", "b"), delta, strict=True):
            if not factor.is_floating_point():
                raise ValueError(f"site {site}: {name} is {factor.dtype}; it must be of a floating-point type")
        rank = delta.a.shape[1] if delta.a.dim() == 3 else None
        if delta.a.shape != (batch, rank, inp):
            raise ValueError(f"site {site}: a has shape {tuple(delta.a.shape)}, expected ({batch}, r, {inp})")
        if delta.b.shape not in ((out, rank), (batch, out, rank)):
            raise ValueError(
                f"site {site}: b has shape {tuple(delta.b.shape)}, expected ({out}, {rank}) or ({batch}, {out}, {rank})"
            )


def batch_size(update: Update) -> int:
    """Returns the number of rows."""
    return next(iter(update.values())).a.shape[0]


def pad_rank(delta: LowRank, rank: int) -> LowRank:
    """Returns the same change with factors of at least this rank, laid out as those of `prepare_update`."""
    if (missing := rank - delta.a.shape[1]) <= 0:
        return delta
    a, b = (F.pad(factor, (0, 0, 0, missing)) for factor in (delta.a, delta.b.mT))
    return LowRank(a, b.mT)


def detach_update(update: Update) -> Update:
    """Returns the same values, detached from the autograd graph."""
    return {site: LowRank(delta.a.detach(), delta.b.detach()) for site, delta in update.items()}


class PreparedUpdate(Mapping[Site, LowRank]):
    """An update as decoding reads it: what is found out about it in one step holds in the next.

    Which tensors it has is fixed, and it is known by its identity. Their values may change.

    Args:
        factors: The factors of each site, laid out as `prepare_update` does.
    """

    def __init__(self, factors: Mapping[Site, LowRank]) -> None:
        self._factors = dict(factors)

    def __getitem__(self, site: Site) -> LowRank:
        return self._factors[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def prepare_update(update: Update, dtype: torch.dtype) -> PreparedUpdate:
    """Returns the same update as decoding reads it fastest: in the activations' type, each row of b^T in one piece.

    Steps would cast the factors, too, each anew.
    """
    return PreparedUpdate(
        {
            site: LowRank(delta.a.to(dtype).contiguous(), delta.b.mT.to(dtype).contiguous().mT)
            for site, delta in update.items()
        }
    )


def take_update_rows(update: Update, rows: Tensor) -> Update:
    """Returns the rows at the indices `rows` (N,)."""
    return {
        site: LowRank(delta.a[rows], delta.b if delta.b.dim() == 2 else delta.b[rows]) for site, delta in update.items()
    }


def join_updates(updates: Sequence[Update]) -> Update:
    """Concatenates the rows of several updates, all of the same sites and ranks."""
    return {
        site: LowRank(
            torch.cat([update[site].a for update in updates]),
            torch.cat([update[site].rows().b for update in updates]),
        )
        for site in updates[0]
    }


def replace_update_rows(update: Update, rows: Tensor, new: Update) -> Update:
    """Returns a copy in which the row at index `rows[i]` is row i of `new`."""
    return {
        site: LowRank(
            delta.a.index_copy(0, rows, new[site].a),
            delta.rows().b.contiguous().index_copy(0, rows, new[site].rows().b),
        )
        for site, delta in update.items()
    }


def mean_update(updates: Iterator[Update] | Sequence[Update], batch: int) -> Update:
    """Returns the mean of dW over all rows of several updates, as an update of `batch` equal rows.

    The products dW are averaged, not the factors, so the result is exact and of full rank, r = min(O, I).

    Raises:
        ValueError: if there is no update.
    """
    total: dict[Site, Tensor] = {}
    count = 0
    for update in updates:
        count += batch_size(update)
        for site, delta in update.items():
            dense = torch.einsum("bor,bri->oi", delta.rows().b, delta.a)
            total[site] = total[site] + dense if site in total else dense
    if not count:
        raise ValueError("the mean of no updates is undefined")
    mean: dict[Site, LowRank] = {}
    for site, dense in total.items():
        out, inp = dense.shape
        dense = dense / count
        eye = torch.eye(min(out, inp), dtype=dense.dtype, device=dense.device)
        a, b = (dense, eye) if out <= inp else (eye, dense)
        mean[site] = LowRank(a.expand(batch, *a.shape), b)
    return mean
