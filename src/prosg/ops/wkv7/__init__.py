"""RWKV-7's recurrence: its kernels by name. `naive` has the equations.

scan    the oracle, step by step, differentiated by autograd: any device and type
torch   in chunks of time, differentiated by autograd: any device and type
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
from prosg.ops.pull import Pull
from prosg.ops.wkv7.chunk import chunked_wkv7
from prosg.ops.wkv7.compiled import LIBRARY, compiled_wkv7
from prosg.ops.wkv7.fla import fla_wkv7
from prosg.ops.wkv7.naive import naive_wkv7

__all__ = ["KERNELS", "WKV7", "WKV7Kernel"]


@runtime_checkable
class WKV7Kernel(Protocol):
    """The signature of all kernels."""

    def __call__(
        self,
        r: Float[Tensor, "B T H N"],
        w: Float[Tensor, "B T H N"],
        k: Float[Tensor, "B T H N"],
        v: Float[Tensor, "B T H N"],
        a: Float[Tensor, "B T H N"],
        b: Float[Tensor, "B T H N"],
        state: Float[Tensor, "B H N N"],
        lengths: Int[Tensor, " B"] | None = None,
        pull: Pull | None = None,
    ) -> tuple[Float[Tensor, "B T H N"], Float[Tensor, "B H N N"]]:
        """Runs the recurrence on from `state`.

        Args:
            r: Receptances: what is read.
            w: Logarithm of the decay of each key channel, -0.61 to 0.
            k: Keys.
            v: Values.
            a: The direction whose content is removed.
            b: Where the removed content is written to.
            state: The state before the first step, rows for values and columns for keys.
            lengths: Valid steps of each row. The others change nothing, return 0 and get no gradient.
            pull: What pulls the state after every valid step, with heads as units; None for nothing.

        Returns:
            y, and the state after each row's last valid step.
        """
        ...


KERNELS: dict[str, WKV7Kernel] = {"scan": naive_wkv7, "torch": chunked_wkv7, "c": compiled_wkv7, "fla": fla_wkv7}
WKV7: Operation[WKV7Kernel] = Operation("wkv7", KERNELS, "torch", {"c": LIBRARY, "fla": FLA})
