"""Properties of updates: their size, their rank, how alike those of several prompts are, and what was read for them.

They are computed from the factors, never from dense matrices:

    singular values   QR gives b = Q R and a^T = P S, so those of dW = b a = Q (R S^T) P^T are those of the small R S^T
    inner product     <b1 a1, b2 a2> = sum((b1^T b2) * (a1 a2^T)); norms and cosines follow from it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prosg.backbones import BackboneModule
from prosg.checkpoints.export import site_module
from prosg.core.checks import check_update_values
from prosg.core.tensors import valid_mask
from prosg.core.update import LowRank, Site, Update
from prosg.model.prosg import ProSG
from prosg.model.synthesizer import Synthesizer

__all__ = [
    "UpdateComparison",
    "compare_updates",
    "inner_products",
    "over_all_sites",
    "prompt_attention",
    "singular_values",
]


class UpdateComparison(NamedTuple):
    """The updates of P prompts at one site, or at all sites together."""

    weight_norm: float
    """Frobenius norm of W"""
    inner: Tensor
    """(P, P) inner products of the dW"""
    singular: Tensor
    """(P, r) singular values of each dW, descending; (P, 0) for all sites together"""

    @property
    def relative(self) -> Float[Tensor, " P"]:
        """Frobenius norm of each dW over that of W."""
        return self.inner.diagonal().clamp(min=0).sqrt() / max(self.weight_norm, 1e-300)

    @property
    def cosine(self) -> Float[Tensor, "P P"]:
        """Cosine similarity of every two dW; 0 if one of them is 0."""
        norm = self.inner.diagonal().clamp(min=0).sqrt()
        return self.inner / (norm.unsqueeze(0) * norm.unsqueeze(1)).clamp(min=1e-300)


def singular_values(delta: LowRank) -> Float[Tensor, "P r"]:
    """Returns the singular values of every row's dW, descending, in fp64: min(r, O, I) of them."""
    a, b = _as_fp64(delta)
    r = torch.linalg.qr(b, mode="r").R
    s = torch.linalg.qr(a.mT, mode="r").R
    values: Tensor = torch.linalg.svdvals(r @ s.mT)
    return values


def inner_products(delta: LowRank) -> Float[Tensor, "P P"]:
    """Returns the inner products <dW, dW'> of all pairs of rows, in fp64."""
    a, b = _as_fp64(delta)
    return (torch.einsum("ior,jos->ijrs", b, b) * torch.einsum("irk,jsk->ijrs", a, a)).sum((2, 3))


def compare_updates(backbone: BackboneModule, update: Update) -> dict[Site, UpdateComparison]:
    """Compares the rows of an update, site by site.

    Raises:
        ValueError: For factors with values that are not finite: the module's weights have overflowed on a prompt.
    """
    check_update_values(update)
    comparisons = {}
    for site, delta in update.items():
        weight = site_module(backbone, site).weight
        assert isinstance(weight, Tensor)
        norm = float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float64))
        comparisons[site] = UpdateComparison(norm, inner_products(delta), singular_values(delta))
    return comparisons


def over_all_sites(comparisons: Mapping[Site, UpdateComparison]) -> UpdateComparison:
    """Returns the comparison of all sites' dW as one long vector per prompt."""
    sites = list(comparisons.values())
    inner = torch.stack([site.inner for site in sites]).sum(0)
    return UpdateComparison(sum(site.weight_norm**2 for site in sites) ** 0.5, inner, inner.new_zeros(len(inner), 0))


@torch.no_grad()
def prompt_attention(model: ProSG, prompt: Int[Tensor, "P T"], lengths: Int[Tensor, " P"]) -> dict[Site, Tensor] | None:
    """Reads prompts in one call, and returns to which of their tokens the synthesizer attends.

    Returns:
        For each site (P, n, T): the attention weights of its n reads, which sum to 1 over a prompt's tokens. None for a
        model whose module does not attend to all positions, is of another class, or is not there.
    """
    synthesizer = model.synthesizer
    if not isinstance(synthesizer, Synthesizer) or synthesizer.config.reads != "all_positions":
        return None
    state = None if model.initial is None else model.init_state(len(prompt))
    output = model.backbone(prompt, state, lengths=lengths, logits="none", taps=synthesizer.taps)
    layers = synthesizer.attention(output.taps, valid_mask(lengths, prompt.shape[1]))
    return {site: weights for layer in layers for site, weights in layer.items()}


def _as_fp64(delta: LowRank) -> tuple[Tensor, Tensor]:
    a, b = delta.rows()
    return a.detach().double(), b.detach().double()
