"""RWKV-4's recurrence: its kernels by name. `naive` has the equations.

scan    the oracle, step by step, differentiated by autograd: any device and type
torch   in chunks of time, with a hand-written backward pass: any device and type
c       compiled, with a hand-written backward pass: CPU, fp32 and fp64, where a compiler was there at installation
fla     Triton, for a GPU, fp32 and narrower, where fla-core is installed; an anchor is left to torch
auto    c or fla where it can run, else torch
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from prosg.ops.fla import FLA
from prosg.ops.operation import Operation
from prosg.ops.wkv4.chunk import chunked_wkv4
from prosg.ops.wkv4.compiled import LIBRARY, compiled_wkv4
from prosg.ops.wkv4.fla import fla_wkv4
from prosg.ops.wkv4.naive import EMPTY_TOP, WKV4Memory, WKV4Pull, naive_wkv4, pull_wkv4

__all__ = ["EMPTY_TOP", "KERNELS", "WKV4", "WKV4Kernel", "WKV4Memory", "WKV4Pull", "pull_wkv4"]


@runtime_checkable
class WKV4Kernel(Protocol):
    """The signature of all kernels."""

    def __call__(
        self,
        w: Float[Tensor, " C"],
        u: Float[Tensor, " C"],
        k: Float[Tensor, "B T C"],
        v: Float[Tensor, "B T C"],
        memory: WKV4Memory,
        lengths: Int[Tensor, " B"] | None = None,
        pull: WKV4Pull | None = None,
    ) -> tuple[Float[Tensor, "B T C"], WKV4Memory]:
        """Runs the recurrence on from `memory`.

        Args:
            w: Logarithm of each channel's decay per step, negative.
            u: Bonus of the current token ("time_first").
            k: Keys.
            v: Values.
            memory: The memory before the first step.
            lengths: Valid steps of each row. The others change nothing, return 0 and get no gradient.
            pull: What pulls the memory after every valid step; None for nothing.

        Returns:
            y, and the memory after each row's last valid step. `top` has no gradient; those of num and den are taken
            at fixed top, which is exact for every function of the true memory (num, den) e^top.
        """
        ...


KERNELS: dict[str, WKV4Kernel] = {"scan": naive_wkv4, "torch": chunked_wkv4, "c": compiled_wkv4, "fla": fla_wkv4}
WKV4: Operation[WKV4Kernel] = Operation("wkv4", KERNELS, "torch", {"c": LIBRARY, "fla": FLA})
