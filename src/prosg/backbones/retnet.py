"""RetNet (arXiv 2307.08621), with a per-row update of its retention's projections.

    tokens -> emb -> L x (x + MSR(ln1 x); x + FFN(ln2 x)) -> ln_out -> head -> logits                         (eq. 9)

Symbols, with the equations of RetNet (those of ProSG, arXiv 2311.01981, are named as such):

    x_n           retention's input, after ln1: `Taps.inputs`; at the prompt's last token ProSG's x (eq. 13-16)
    W_Q W_K W_V   query, key, value, and W_O output: replaced by W + dW (ProSG's eq. 8-12)
    W_G           gate
    gamma         the share that a head keeps per token, 1 - 2^(-5 - head); `decay` is its logarithm (eq. 8)
    S             memory, one matrix per head; `ops.retention` has the recurrence (eq. 1, 6)
    Y             group norm of the heads' retention: `Taps.memory` (eq. 8)

    MSR(x) = W_O (swish(W_G x) * Y);      FFN(x) = W_2 gelu(W_1 x): `ffn.up` and `ffn.down`

There is no token shift: the memory is the whole state. It rotates with every token, where the paper rotates by absolute
positions, so that a call may end anywhere.

Where the paper leaves a choice: keys are scaled by 1 / sqrt(K), K their width. The other two normalisations of scores
are left out (see `ops.retention.naive`): they cancel in the group norm up to its eps, which is 1e-5 and refers to what
retention returns with that scaling alone. The group norm subtracts a head's mean and has no weights of its own, since
W_O follows. Matrices have no biases, layer norms do. Decays are constants stored with the weights, so that a file
defines the number of heads, and may have other decays than eq. 8 (the paper's experiments had 1 - gamma from 1/32 to
1/512 over the heads).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosg.backbones.layers import MetaAwareLinear, add_memories, anchor_to_memories, pull_memories
from prosg.backbones.layouts import RETNET_LAYOUT
from prosg.backbones.native import Block, BlockContext, BlockOutput, NativeBackbone, check_positive
from prosg.core.state import Anchor, State
from prosg.core.update import LowRank, project
from prosg.ops.operation import Operation
from prosg.ops.retention import RETENTION, RetentionKernel, elapse

__all__ = ["RETNET_SIZES", "RetNet", "RetNetConfig", "RetNetLayer"]

GROUP_NORM_EPS = 1e-5


@dataclass(frozen=True)
class RetNetConfig:
    """Sizes of a RetNet. Where 0 is allowed, it takes the paper's choice.

    Args:
        vocab_size: Number of tokens V.
        hidden_size: Width E of the model, and of queries and keys of all heads together.
        num_layers: Number of blocks L.
        num_heads: Number of heads; 0 takes E / 256.
        value_size: Width of the values of all heads together; 0 takes 2 E.
        ffn_size: Inner width of the feed-forward layer; 0 takes 2 E.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int = 0
    value_size: int = 0
    ffn_size: int = 0

    model_type = "retnet"

    def __post_init__(self) -> None:
        check_positive(self, "vocab_size", "hidden_size", "num_layers")
        e = self.hidden_size
        for name, usual in (("num_heads", max(e // 256, 1)), ("value_size", 2 * e), ("ffn_size", 2 * e)):
            object.__setattr__(self, name, getattr(self, name) or usual)
            if getattr(self, name) < 1:
                raise ValueError(f"RetNetConfig.{name} is {getattr(self, name)}, must be at least 1, or 0 for {usual}")
        # Key channels rotate in pairs.
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
"""The paper's sizes, and two small ones. The paper does not state its vocabulary: this is the Pile's, as RWKV-4's."""


class RetNetLayer(NamedTuple):
    """State of one block: the memory (B, H, V, K), rows for values and columns for keys."""

    memory: Tensor


class MultiScaleRetention(nn.Module):
    """Multi-scale retention (eq. 8): q k v, the recurrence, group norm, gate, output projection."""

    decay: Tensor

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        width, size, self.heads = config.hidden_size, config.value_size, config.num_heads
        self.register_buffer("decay", torch.log1p(-(2.0 ** (-5 - torch.arange(self.heads)))))
        self.query = MetaAwareLinear(width, width, bias=False)
        self.key = MetaAwareLinear(width, width, bias=False)
        self.value = MetaAwareLinear(width, size, bias=False)
        self.gate = MetaAwareLinear(width, size, bias=False)
        self.output = MetaAwareLinear(size, width, bias=False)

    def forward(
        self, x: Tensor, layer: RetNetLayer, deltas: Mapping[str, LowRank], context: BlockContext
    ) -> tuple[Tensor, Tensor, RetNetLayer]:
        """x (B, T, E) -> y (B, T, E), `Taps.memory` (B, T, H V), state."""
        kernel: RetentionKernel = context.kernel
        wide = layer.memory.dtype

        def heads(z: Tensor) -> Tensor:
            cut: Tensor = z.to(wide).unflatten(2, (self.heads, -1))
            return cut

        q, k, v = (
            heads(project(linear, x, deltas.get(name), context.active))
            for name, linear in (("query", self.query), ("key", self.key), ("value", self.value))
        )
        k = k * k.shape[3] ** -0.5
        y, memory = kernel(q, k, v, self.decay.to(wide), layer.memory, context.lengths, context.pull)
        tap = F.layer_norm(y, y.shape[3:], eps=GROUP_NORM_EPS).flatten(2)
        gated = F.silu(self.gate(x)) * tap.to(x.dtype)
        return project(self.output, gated, deltas.get("output"), context.active), tap, RetNetLayer(memory)


class RetNetFeedForward(nn.Module):
    """W_2 gelu(W_1 x)."""

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        self.up = MetaAwareLinear(config.hidden_size, config.ffn_size, bias=False)
        self.down = MetaAwareLinear(config.ffn_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, E) -> y (B, T, E)."""
        y: Tensor = self.down(F.gelu(self.up(x)))
        return y


class RetNetBlock(Block):
    """ln1 -> retention, ln2 -> feed-forward, both residual (eq. 9)."""

    att: MultiScaleRetention

    def __init__(self, config: RetNetConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.hidden_size)
        self.ln2 = nn.LayerNorm(config.hidden_size)
        self.att = MultiScaleRetention(config)
        self.ffn = RetNetFeedForward(config)

    def forward(
        self, stream: Tensor, layer: RetNetLayer, deltas: Mapping[str, LowRank], context: BlockContext
    ) -> BlockOutput:
        """Residual stream x (B, T, E) -> x."""
        seen = self.ln1(stream)
        y, memory, layer = self.att(seen, layer, deltas, context)
        x = stream + y
        return BlockOutput(x + self.ffn(self.ln2(x)), layer, seen, memory)


class RetNet(NativeBackbone):
    """RetNet; see `Backbone` for its methods."""

    site_names = ("query", "key", "value", "output")
    operation: ClassVar[Operation[RetentionKernel]] = RETENTION
    layout = RETNET_LAYOUT

    config: RetNetConfig
    blocks: Sequence[RetNetBlock]

    def __init__(self, config: RetNetConfig, kernel: str = "auto") -> None:
        super().__init__(config, [RetNetBlock(config) for _ in range(config.num_layers)], kernel)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, E)."""
        x: Tensor = self.emb(tokens)
        return x

    def init_state(self, batch: int) -> tuple[RetNetLayer, ...]:
        """Returns zeros."""
        heads = self.config.num_heads
        values, keys = self.config.value_size // heads, self.config.hidden_size // heads
        return tuple(RetNetLayer(self.full(batch, heads, values, keys)) for _ in self.blocks)

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """S decays and rotates as it does over `steps` empty tokens, times e^shift."""
        left = torch.exp(shift.to(self.state_dtype)).view(-1, 1, 1, 1)
        return tuple(
            RetNetLayer(elapse(layer.memory, block.att.decay, steps) * left)
            for block, layer in zip(self.blocks, state, strict=True)
        )

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """S <- keep S + S_other, in rows whose weight is not 0. Both end at their last token: neither is rotated."""
        return add_memories(state, other, keep, weight)

    @property
    def anchor_units(self) -> tuple[int, ...]:
        """The heads of each layer."""
        return (self.config.num_heads,) * self.config.num_layers

    def make_anchor(self, target: State, log_keep: Sequence[Tensor], share: Sequence[Tensor]) -> Anchor:
        """S <- e^log_keep S + share S_target, per head. The target does not rotate: it stays as far back as it is."""
        return anchor_to_memories(target, log_keep, share)

    def anchor(self, state: State, anchor: Anchor) -> State:
        """Returns a state after one pull."""
        return pull_memories(state, anchor)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws initial weights: matrices by their number of inputs, embeddings small beside what layers add."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                std = 0.02 if name in ("emb.weight", "head.weight") else parameter.shape[1] ** -0.5
                parameter.normal_(0.0, std, generator=generator)
