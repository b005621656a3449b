"""The gated delta rule, the recurrence of Gated DeltaNet: its kernels by name. `naive` has the equations.

scan    the oracle, step by step
torch   in chunks of time
auto    torch

Both are differentiated by autograd and run on any device and in any type.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from prosg.ops.gated_delta.chunk import chunked_gated_delta
from prosg.ops.gated_delta.naive import naive_gated_delta
from prosg.ops.operation import Operation
from prosg.ops.pull import Pull

__all__ = ["GATED_DELTA", "KERNELS", "GatedDeltaKernel"]


@runtime_checkable
class GatedDeltaKernel(Protocol):
    """The signature of all kernels."""

    def __call__(
        self,
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
        g: Float[Tensor, "B T H"],
        beta: Float[Tensor, "B T H"],
        memory: Float[Tensor, "B H V K"],
        lengths: Int[Tensor, " B"] | None = None,
        pull: Pull | None = None,
    ) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
        """Runs the recurrence on from `memory`.

        Args:
            q: Queries, scaled by the caller.
            k: Keys, at most of length 1.
            v: Values.
            g: Logarithm of the share of the memory that is kept, at most 0.
            beta: Share of what the memory holds at k that is replaced, 0 to 1.
            memory: The memory before the first step, rows for values and columns for keys.
            lengths: Valid steps of each row. The others change nothing, return 0 and get no gradient.
            pull: What pulls the memory after every valid step, with heads as units; None for nothing.

        Returns:
            y, and the memory after each row's last valid step.
        """
        ...


KERNELS: dict[str, GatedDeltaKernel] = {"scan": naive_gated_delta, "torch": chunked_gated_delta}
GATED_DELTA: Operation[GatedDeltaKernel] = Operation("gated_delta", KERNELS, "torch")
