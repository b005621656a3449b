"""Products of rows with a matrix, y = x W^T, in PyTorch: the oracle, and what many rows use."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor

__all__ = ["naive_linear"]


def naive_linear(
    x: Float[Tensor, "*rows I"], weight: Num[Tensor, "O I"], scale: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "*rows O"]:
    """y = x W^T; where W is int8, (x W^T) scale; see `LinearKernel`."""
    if scale is None:
        return F.linear(x, weight)
    return (F.linear(x, weight.to(x.dtype)) * scale).to(x.dtype)
