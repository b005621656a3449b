"""Products of rows with a matrix: its kernels by name. `naive` has the equation.

torch   PyTorch's own: any device and type, differentiable, and the fastest for many rows
c       compiled: CPU, few rows, fp32, bf16 and int8, no gradients; reads the matrix once at the memory's speed

`linear` chooses by the rows, for a decoding step has few and training many.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from prosg.ops.library import ACTIVATIONS
from prosg.ops.linear.compiled import LIBRARY, compiled_linear, most_rows
from prosg.ops.linear.naive import naive_linear
from prosg.ops.operation import Operation

__all__ = ["KERNELS", "LINEAR", "LinearKernel", "linear"]


@runtime_checkable
class LinearKernel(Protocol):
    """The signature of all kernels."""

    def __call__(
        self, x: Float[Tensor, "*rows I"], weight: Num[Tensor, "O I"], scale: Float[Tensor, " O"] | None = None
    ) -> Float[Tensor, "*rows O"]:
        """Returns y = x W^T.

        Args:
            x: Rows, fp32 or bf16.
            weight: W, in x's type, or int8.
            scale: For an int8 matrix: y = (x W^T) scale, fp32.
        """
        ...


KERNELS: dict[str, LinearKernel] = {"torch": naive_linear, "c": compiled_linear}
LINEAR: Operation[LinearKernel] = Operation("linear", KERNELS, "torch", {"c": LIBRARY})

_most_rows = cache(most_rows)


def linear(x: Tensor, weight: Tensor, scale: Tensor | None = None) -> Tensor:
    """y = x W^T by the kernel that is the fastest for this number of rows; see `LinearKernel`."""
    return (compiled_linear if _is_fast(x, weight, scale) else naive_linear)(x, weight, scale)


def _is_fast(x: Tensor, weight: Tensor, scale: Tensor | None) -> bool:
    rows = x.numel() // max(weight.shape[1], 1)
    return (
        0 < rows <= _most_rows(weight.dtype)
        and x.dtype in ACTIVATIONS
        and weight.dtype in (x.dtype, torch.int8)
        and x.is_cpu
        and weight.is_cpu
        and weight.is_contiguous()
        and (scale is None or scale.dtype == torch.float32)
        and type(weight) in (Tensor, nn.Parameter)  # not one that is sharded, or traced
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
    )
