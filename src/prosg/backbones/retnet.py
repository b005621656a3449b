"""RetNet (arXiv 2307.08621), with a per-row update of its retention's projections.

    tokens -> emb -> L x (x + MSR(ln1 x); x + FFN(ln2 x)) -> ln_out -> head -> logits                         (eq. 9)

Symbols and where they stand (equations of RetNet; ProSG's, arXiv 2311.01981, are named as such):

    x_n           retention's input, after ln1; `Taps.inputs`, and at the prompt's last token ProSG's x (eq. 13-16)
    W_Q W_K W_V   query, key, value, and W_O output: replaced by W + dW (ProSG's eq. 8-12)
    W_G           gate
    gamma         what a head keeps per token, 1 - 2^(-5 - head); `decay` is its logarithm (eq. 8)
    S             memory, one matrix per head; `ops.retention` has the recurrence (eq. 1, 6)
    Y             group norm of the heads' retention; `Taps.memory` (eq. 8)

    MSR(x) = W_O (swish(W_G x) * Y);      FFN(x) = W_2 gelu(W_1 x): `ffn.up` and `ffn.down`

There is no token shift: the memory is all that is carried. It turns with every token instead of being counted in
absolute places, so that a call may end anywhere.

What the paper leaves open, and what is done here. Keys are scaled by 1 / sqrt(K), K their width. The other two
normalisations of scores are left out (see `ops.retention`): they cancel in the group norm up to its eps, which is 1e-5
and refers to what retention returns with that scaling alone. The group norm subtracts a head's mean and has no weights
of its own, W_O has them. Matrices have no biases, layer norms have. Decays are constants that are kept with the
weights: so a file tells the number of heads, and may have others than eq. 8 (the paper's experiments had 1 - gamma from
1/32 to 1/512 over the heads).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosg.backbones.native import Block, Call, Linear, Mixed, Native, add_memories
from prosg.core.state import State
from prosg.core.update import LowRank, project
from prosg.ops import retention

__all__ = ["RETNET_SIZES", "RetNet", "RetNetConfig", "RetNetLayer"]

GROUP_NORM_EPS = 1e-5


@dataclass(frozen=True)
class RetNetConfig:
    """Sizes of a RetNet. 0 takes the paper's: heads with keys of width 256, value_size and ffn_size 2 E."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int = 0
    value_size: int = 0
    ffn_size: int = 0

    model_type = "retnet"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"RetNetConfig.{name} is {getattr(self, name)}, must be at least 1")
        e = self.hidden_size
        for name, usual in (("num_heads", max(e // 256, 1)), ("value_size", 2 * e), ("ffn_size", 2 * e)):
            object.__setattr__(self, name, getattr(self, name) or usual)
            if getattr(self, name) < 1:
                raise ValueError(f"RetNetConfig.{name} is {getattr(self, name)}, must be at least 1, or 0 for {usual}")
        # Key channels turn in pairs.
        for name, unit in (("hidden_size", 2 * self.num_heads), ("value_size", self.num_heads)):
            if getattr(self, name) % unit:
                raise ValueError(
                    f"RetNetConfig.{name} is {getattr(self, name)}, "
                    f"must be a multiple of {unit} for {self.num_heads} heads"
                )


RETNET_SIZES: dict[str, RetNetConfig] = {
    "debug": RetNetConfig(vocab_size=256, hidden_size=32, num_layers=2, num_heads=2),
    "demo": RetNetConfig(vocab_size=1024, hidden_size=96, num_layers=3, num_heads=3),
    "1.3B": RetNetConfig(vocab_size=50277, hidden_size=2048, num_layers=24),
    "2.7B": RetNetConfig(vocab_size=50277, hidden_size=2560, num_layers=32),
    "6.7B": RetNetConfig(vocab_size=50277, hidden_size=4096, num_layers=32),
}
"""The paper's sizes, and two small ones. It does not tell its vocabulary: this is the Pile's, as RWKV-4's."""


class RetNetLayer(NamedTuple):
    """Recurrent state of one block: the memory (B, H, V, K), rows for values and columns for keys."""

    memory: Tensor


class Retention(nn.Module):
    """Multi-scale retention (eq. 8): q k v, the recurrence, group norm, gate, output projection."""

    decay: Tensor

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        width, size, self.heads = config.hidden_size, config.value_size, config.num_heads
        self.register_buffer("decay", torch.log1p(-(2.0 ** (-5 - torch.arange(self.heads)))))
        self.query = Linear(width, width, bias=False)
        self.key = Linear(width, width, bias=False)
        self.value = Linear(width, size, bias=False)
        self.gate = Linear(width, size, bias=False)
        self.output = Linear(size, width, bias=False)

    def forward(
        self, x: Tensor, layer: RetNetLayer, deltas: Mapping[str, LowRank], call: Call
    ) -> tuple[Tensor, Tensor, RetNetLayer]:
        """x (B, T, E) -> y (B, T, E), memory tap (B, T, H V), state."""
        wide = layer.memory.dtype

        def heads(z: Tensor) -> Tensor:
            cut: Tensor = z.to(wide).unflatten(2, (self.heads, -1))
            return cut

        q, k, v = (
            heads(project(linear, x, deltas.get(name), call.active))
            for name, linear in (("query", self.query), ("key", self.key), ("value", self.value))
        )
        y, memory = call.kernel(q, k * k.shape[3] ** -0.5, v, self.decay.to(wide), layer.memory, call.lengths)
        tap = F.layer_norm(y, y.shape[3:], eps=GROUP_NORM_EPS).flatten(2)
        gated = F.silu(self.gate(x)) * tap.to(x.dtype)
        return project(self.output, gated, deltas.get("output"), call.active), tap, RetNetLayer(memory)


class FeedForward(nn.Module):
    """W_2 gelu(W_1 x)."""

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.ffn_size, bias=False)
        self.down = Linear(config.ffn_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, E) -> y (B, T, E)."""
        y: Tensor = self.down(F.gelu(self.up(x)))
        return y


class RetNetBlock(Block):
    """ln1 -> retention, ln2 -> feed-forward, both residual (eq. 9)."""

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.hidden_size)
        self.ln2 = nn.LayerNorm(config.hidden_size)
        self.att = Retention(config)
        self.ffn = FeedForward(config)

    def forward(self, stream: Tensor, layer: RetNetLayer, deltas: Mapping[str, LowRank], call: Call) -> Mixed:
        """x (B, T, E) -> x."""
        seen = self.ln1(stream)
        y, memory, layer = self.att(seen, layer, deltas, call)
        x = stream + y
        return Mixed(x + self.ffn(self.ln2(x)), layer, seen, memory)


class RetNet(Native):
    """RetNet as a function of (tokens, state, update); see `Backbone`."""

    site_names = ("query", "key", "value", "output")
    kernels: ClassVar[Any] = retention

    def __init__(self, config: RetNetConfig, kernel: str = "auto") -> None:
        super().__init__(config, [RetNetBlock(config) for _ in range(config.num_layers)], kernel)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, E)."""
        x: Tensor = self.emb(tokens)
        return x

    def init_state(self, batch: int) -> tuple[RetNetLayer, ...]:
        """Zeros."""
        heads = self.config.num_heads
        values, keys = self.config.value_size // heads, self.config.hidden_size // heads
        return tuple(RetNetLayer(self.empty(batch, heads, values, keys)) for _ in self.blocks)

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """S decays and turns as if `steps` (B,) empty tokens had passed, and e^shift (B,) is left of the rest."""
        left = torch.exp(shift.to(self.state_dtype)).view(-1, 1, 1, 1)
        return tuple(
            RetNetLayer(retention.elapse(layer.memory, block.att.decay, steps) * left)
            for block, layer in zip(self.blocks, state, strict=True)
        )

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """S <- keep S + S_other, where weight is not 0. The memory is a plain sum: a state's own size is its weight.

        Both end at their own last token, so neither has to be turned.
        """
        return add_memories(state, other, keep, weight)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise for training from scratch: matrices by their inputs, tokens small beside what layers add."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                std = 0.02 if name in ("emb.weight", "head.weight") else parameter.shape[1] ** -0.5
                parameter.normal_(0.0, std, generator=generator)
