"""What an update is like, in numbers: how large, of what rank, how alike for two prompts, and what its reads look at.

Everything comes from the factors (dW = b a), never from a dense matrix:

    singular values   b = Q R and a^T = P S (QR), so those of dW = Q (R S^T) P^T are those of the small R S^T
    inner product     <b1 a1, b2 a2> = sum((b1^T b2) * (a1 a2^T)); norms and cosines are made of it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.native import Native
from prosg.checkpoints.export import site_path
from prosg.core.update import LowRank, Site, Update
from prosg.model.prosg import ProSG

__all__ = ["Compared", "attention", "compare", "inner_products", "singular_values", "total"]


class Compared(NamedTuple):
    """The updates of P prompts at one site, or at all sites together."""

    weight: float
    """Frobenius norm of W"""
    inner: Tensor
    """(P, P) inner products of the dW"""
    singular: Tensor
    """(P, r) singular values of each dW, falling; empty for all sites together"""

    @property
    def relative(self) -> Float[Tensor, " P"]:
        """Frobenius norm of dW over that of W."""
        return self.inner.diagonal().clamp(min=0).sqrt() / max(self.weight, 1e-300)

    @property
    def cosine(self) -> Float[Tensor, "P P"]:
        """Between the prompts' dW; 0 where one of them is 0."""
        norm = self.inner.diagonal().clamp(min=0).sqrt()
        return self.inner / (norm.unsqueeze(0) * norm.unsqueeze(1)).clamp(min=1e-300)


def singular_values(delta: LowRank) -> Float[Tensor, "P r"]:
    """Of every row's dW, falling, in fp64; at most min(r, O, I) of them."""
    a, b = _wide(delta)
    r = torch.linalg.qr(b, mode="r").R
    s = torch.linalg.qr(a.mT, mode="r").R
    values: Tensor = torch.linalg.svdvals(r @ s.mT)
    return values


def inner_products(delta: LowRank) -> Float[Tensor, "P P"]:
    """<dW, dW'> of every pair of rows, in fp64."""
    a, b = _wide(delta)
    return (torch.einsum("ior,jos->ijrs", b, b) * torch.einsum("irk,jsk->ijrs", a, a)).sum((2, 3))


def compare(backbone: Native | HFBackbone, update: Update) -> dict[Site, Compared]:
    """Per site, what the updates of a batch of prompts are like."""
    found = {}
    for site, delta in update.items():
        weight: Any = backbone.get_submodule(site_path(backbone, site)).weight
        norm = float(torch.linalg.vector_norm(weight.detach(), dtype=torch.float64))
        found[site] = Compared(norm, inner_products(delta), singular_values(delta))
    return found


def total(compared: Mapping[Site, Compared]) -> Compared:
    """All sites as one long vector."""
    sites = list(compared.values())
    inner = torch.stack([site.inner for site in sites]).sum(0)
    return Compared(sum(site.weight**2 for site in sites) ** 0.5, inner, inner.new_zeros(len(inner), 0))


@torch.no_grad()
def attention(model: ProSG, prompt: Int[Tensor, "P T"], lengths: Int[Tensor, " P"]) -> dict[Site, Tensor] | None:
    """Per site each read's attention over the prompts' tokens, (P, n, T); sums to 1 over a row's tokens.

    None for a module that reads no positions, or only the last one. The prompts are read in one call.
    """
    synthesizer = model.synthesizer
    if synthesizer is None or synthesizer.config.reads != "all_positions":
        return None
    state = None if model.initial is None else model.init_state(len(prompt))
    output = model.backbone(prompt, state, lengths=lengths, logits="none", taps=synthesizer.taps)
    valid = torch.arange(prompt.shape[1], device=prompt.device) < lengths.unsqueeze(1)
    layers = synthesizer.attention(output.taps, valid)
    return {site: weights for layer in layers for site, weights in layer.items()}


def _wide(delta: LowRank) -> tuple[Tensor, Tensor]:
    a, b = delta.rows()
    return a.detach().double(), b.detach().double()
