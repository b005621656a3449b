"""Mamba's selective scan: its kernels by name. `naive` has the equations.

scan    the oracle, step by step, differentiated by autograd: any device and type
c       compiled, with a hand-written backward pass: CPU, fp32 and fp64, where a compiler was there at installation
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from prosg.ops.operation import Operation
from prosg.ops.selective_scan.compiled import LIBRARY, compiled_selective_scan
from prosg.ops.selective_scan.naive import naive_selective_scan

__all__ = ["KERNELS", "SELECTIVE_SCAN", "SelectiveScanKernel"]


@runtime_checkable
class SelectiveScanKernel(Protocol):
    """The signature of all kernels."""

    def __call__(
        self,
        x: Float[Tensor, "B T D"],
        dt: Float[Tensor, "B T D"],
        A: Float[Tensor, "D N"],
        B: Float[Tensor, "B T N"],
        C: Float[Tensor, "B T N"],
        state: Float[Tensor, "B D N"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D N"]]:
        """Runs the scan on from `state`.

        Args:
            x: Inputs.
            dt: The time that each token takes, per channel.
            A: Logarithm of the decay per unit of time. dt A must not be positive: then no memory grows of itself.
                (Mamba's A is negative and its dt positive.)
            B: What each token writes.
            C: What each token reads.
            state: The state before the first step.

        Returns:
            y, and the state after the last step.
        """
        ...


KERNELS: dict[str, SelectiveScanKernel] = {"scan": naive_selective_scan, "c": compiled_selective_scan}
SELECTIVE_SCAN: Operation[SelectiveScanKernel] = Operation("selective_scan", KERNELS, "scan", {"c": LIBRARY})
