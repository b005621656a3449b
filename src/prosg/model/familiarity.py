"""Which prompts a module knows: those like its training's. Under an update made of any other a model does harm.

    z = mean over the prompt's positions of the time-mix inputs of some layers, side by side         (D,)
    d = |W (z - mean)|^2 / D,   W^T W the inverse of the covariance of z over training prompts

d is about 1 for a prompt like those of training (the squared Mahalanobis distance per dimension; Lee et al., arXiv
1807.03888, do the same to images). A prompt is known if d is at most `threshold`, a quantile over prompts that the
covariance was not estimated from. What tells prompts apart are the directions in which those of training hardly vary,
so nothing is projected away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prosg.backbones.base import Taps

__all__ = ["GREATEST_WIDTH", "LEAST_PROMPTS", "Familiarity", "familiar_layers"]

GREATEST_WIDTH = 2048
"""Most dimensions of z, unless one layer alone has more: the covariance has their square."""
LEAST_PROMPTS = 64
"""Fewest prompts, of those that the covariance and those that the threshold is taken from."""
SHRINKAGE = 1e-3
"""Share of the identity in the correlations: bounds what rounding does to d in directions of no variance."""
MARGIN = 1.1
"""Factor of the threshold above the quantile: other types and kernels round otherwise."""


def familiar_layers(widths: Sequence[int]) -> tuple[int, ...]:
    """Returns the layers whose inputs, of these widths, are looked at: as many as fit, evenly spread, at least one."""
    count = max(min(GREATEST_WIDTH // max(widths), len(widths)), 1)
    return tuple(round(i * (len(widths) - 1) / max(count - 1, 1)) for i in range(count))


class Familiarity(nn.Module):
    """The distance of prompts from those of training, and the greatest of a known one.

    Attributes:
        layers: Whose inputs are looked at.
        mean: (D,) of z.
        whitening: (D, D) W.
        threshold: () the greatest distance of a known prompt.
    """

    mean: Tensor
    whitening: Tensor
    threshold: Tensor

    def __init__(self, widths: Sequence[int]) -> None:
        """Makes one that knows every prompt, until it is fitted, for layers with inputs of these widths."""
        super().__init__()
        self.layers = familiar_layers(widths)
        size = sum(widths[layer] for layer in self.layers)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.zeros(size, size))
        self.register_buffer("threshold", torch.zeros(()))

    def sums(self, taps: Taps, valid: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
        """Returns the inputs of a chunk, summed over its valid positions; over the whole prompt they are z times T."""
        mask = valid.unsqueeze(2)
        layers = [(taps.inputs[layer] * mask).sum(1, dtype=self.mean.dtype) for layer in self.layers]
        return torch.cat(layers, 1)

    def distance(self, means: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Returns d of each prompt, given its z."""
        return ((means - self.mean) @ self.whitening.mT).square().mean(1)

    def knows(self, means: Float[Tensor, "B D"]) -> Bool[Tensor, " B"]:
        """Returns whether each prompt is known, given its z."""
        return self.distance(means) <= self.threshold

    @torch.no_grad()
    def fit(self, means: Float[Tensor, "N D"], others: Float[Tensor, "M D"], share: float) -> None:
        """Estimates mean and covariance from some prompts, and the threshold from others.

        Args:
            means: z of the training's prompts.
            others: z of prompts of the same sort that are not among them.
            share: Share of the others that is to be known.
        """
        z = means.double()
        mean, std = z.mean(0), z.std(0)
        std = torch.where(std > 1e-6 * std.amax().clamp(min=1e-30), std, std.amax().clamp(min=1e-30))
        scaled = (z - mean) / std
        correlation = (1 - SHRINKAGE) * (scaled.mT @ scaled) / (len(z) - 1)
        correlation.diagonal().add_(SHRINKAGE)
        # C = L L^T, so that |L^-1 x|^2 = x^T C^-1 x.
        whitening = torch.linalg.inv(torch.linalg.cholesky(correlation)) / std
        self.mean.copy_(mean)
        self.whitening.copy_(whitening)
        self.threshold.copy_(MARGIN * torch.quantile(self.distance(others.to(self.mean)), share))
