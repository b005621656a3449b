"""RetNet's retention: its forms by name. `naive` has the symbols and equations.

    recurrent   the oracle, step by step (eq. 1, 6)
    parallel    a matrix of scores over all steps, as in attention (eq. 5)
    chunked     parallel within chunks of time, recurrent over them (eq. 7)
    fla         Triton, for a GPU, fp32 and narrower, where fla-core is installed; an anchor is left to chunked
    auto        fla where it can run, else chunked

The first three are differentiated by autograd and run on any device and in any type.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from prosg.ops.fla import FLA
from prosg.ops.operation import Operation
from prosg.ops.pull import Pull
from prosg.ops.retention.chunk import chunked_retention, parallel_retention
from prosg.ops.retention.fla import fla_retention
from prosg.ops.retention.naive import elapse, recurrent_retention

__all__ = ["KERNELS", "RETENTION", "RetentionKernel", "elapse"]


@runtime_checkable
class RetentionKernel(Protocol):
    """The signature of all forms."""

    def __call__(
        self,
        q: Float[Tensor, "B T H K"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H V"],
        decay: Float[Tensor, " H"],
        memory: Float[Tensor, "B H V K"],
        lengths: Int[Tensor, " B"] | None = None,
        pull: Pull | None = None,
    ) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
        """Runs retention on from `memory`.

        Args:
            q: Queries.
            k: Keys, scaled by 1 / sqrt(K) by the caller.
            v: Values.
            decay: Logarithm of each head's decay per step, at most 0; a constant without a gradient.
            memory: The memory before the first step, rows for values and columns for keys.
            lengths: Valid steps of each row. The others change nothing (no decay, no rotation, nothing written),
                return 0 and get no gradient.
            pull: What pulls the memory after every valid step, with heads as units; None for nothing.

        Returns:
            y, and the memory after each row's last valid step.
        """
        ...


KERNELS: dict[str, RetentionKernel] = {
    "recurrent": recurrent_retention,
    "parallel": parallel_retention,
    "chunked": chunked_retention,
    "fla": fla_retention,
}
RETENTION: Operation[RetentionKernel] = Operation("retention", KERNELS, "chunked", {"fla": FLA})
