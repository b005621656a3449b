"""The update as a value: dW = b @ a per site, passed along with tokens and state.

Symbols (B batch, T time, I/O a projection's inputs/outputs, r rank):

    a   (B, r, I)            synthesized per prompt                      A of eq. 20
    b   (O, r) or (B, O, r)  learned, or synthesized per prompt too      B of eq. 20

The update is an activation, not a parameter: gradients flow through it, it can differ in each row of a batch, and
nothing about it is stored on a module. Factors are kept in fp32 and cast to the type of the activations they meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "LowRank",
    "Site",
    "Update",
    "add_delta",
    "batch_size",
    "check_update",
    "detach_update",
    "join_updates",
    "mean_update",
    "project",
    "replace_update_rows",
    "take_update_rows",
]


class Site(NamedTuple):
    """A projection that an update acts on: time-mixing block `layer`, projection `name`."""

    layer: int
    name: str

    def __str__(self) -> str:
        return f"{self.layer}.{self.name}"


class LowRank(NamedTuple):
    """dW = b @ a for one site and every row of a batch (eq. 20)."""

    a: Tensor
    b: Tensor

    def rows(self) -> LowRank:
        """The same with `b` as (B, O, r), whatever it was."""
        if self.b.dim() == 3:
            return self
        return LowRank(self.a, self.b.expand(self.a.shape[0], *self.b.shape))

    def dense(self) -> Float[Tensor, "B O I"]:
        """dW itself, one per row."""
        return self.b @ self.a


Update = Mapping[Site, LowRank]


def project(
    linear: nn.Module,
    x: Float[Tensor, "B T I"],
    delta: LowRank | None,
    active: Float[Tensor, "B T 1"] | None = None,
) -> Float[Tensor, "B T O"]:
    """y = (W + dW) x (eq. 8-12). The module is called, so wrapped (PEFT, quantised) layers work.

    `active` is 1 where the update acts and 0 where it does not (`update_from`).
    """
    y: Tensor = linear(x)
    return y if delta is None else add_delta(y, x, delta, active)


def add_delta(y: Tensor, x: Float[Tensor, "B T I"], delta: LowRank, active: Tensor | None = None) -> Tensor:
    """y (B, T, O) + dW x: what a projection of x returned, as if its weights were W + dW; `active` as in `project`."""
    if active is not None:
        x = x * active
    return y + (x @ delta.a.to(x.dtype).mT) @ delta.b.to(x.dtype).mT


def check_update(update: Update, sites: Mapping[Site, tuple[int, int]], batch: int) -> None:
    """Raise ValueError unless every factor fits a site of shape (O, I) and the batch."""
    for site, delta in update.items():
        if site not in sites:
            raise ValueError(f"update for unknown site {site}; sites are {', '.join(map(str, sites))}")
        out, inp = sites[site]
        rank = delta.a.shape[1] if delta.a.dim() == 3 else None
        if delta.a.shape != (batch, rank, inp):
            raise ValueError(f"site {site}: a has shape {tuple(delta.a.shape)}, expected ({batch}, r, {inp})")
        if delta.b.shape not in ((out, rank), (batch, out, rank)):
            raise ValueError(
                f"site {site}: b has shape {tuple(delta.b.shape)}, expected ({out}, {rank}) or ({batch}, {out}, {rank})"
            )


def batch_size(update: Update) -> int:
    """Number of rows of an update."""
    return next(iter(update.values())).a.shape[0]


def detach_update(update: Update) -> Update:
    """The same values without their history."""
    return {site: LowRank(d.a.detach(), d.b.detach()) for site, d in update.items()}


def take_update_rows(update: Update, rows: Tensor) -> Update:
    """Rows of an update, by index (N,)."""
    return {site: LowRank(d.a[rows], d.b if d.b.dim() == 2 else d.b[rows]) for site, d in update.items()}


def join_updates(updates: Sequence[Update]) -> Update:
    """One batch out of several; all must have the same sites and ranks."""
    return {
        site: LowRank(
            torch.cat([u[site].a for u in updates]),
            torch.cat([u[site].rows().b for u in updates]),
        )
        for site in updates[0]
    }


def replace_update_rows(update: Update, rows: Tensor, new: Update) -> Update:
    """A copy in which `rows` (N,) are those of `new`, in order."""
    return {
        site: LowRank(
            d.a.index_copy(0, rows, new[site].a),
            d.rows().b.contiguous().index_copy(0, rows, new[site].rows().b),
        )
        for site, d in update.items()
    }


def mean_update(updates: Iterator[Update] | Sequence[Update], batch: int) -> Update:
    """The exact mean of the products dW over all rows of `updates`, for each of `batch` rows.

    Full rank, r = min(O, I), averaged densely: the mean of products, not the product of means.
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
