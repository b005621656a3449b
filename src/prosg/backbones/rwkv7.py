"""RWKV-7 (arXiv 2503.14456), with a per-row update of its time-mixing projections.

    tokens -> emb -> ln0 -> L x (x + RWKV7TimeMix(ln1 x); x + RWKV7ChannelMix(ln2 x)) -> ln_out -> head -> logits

Symbols, with the equations of ProSG (arXiv 2311.01981) for the projections:

    x_t        time-mixing input, after ln1: `Taps.inputs`; at the prompt's last token the paper's x (eq. 13-16)
    x_r ...    token shift, x_t + mu (x_{t-1} - x_t), another mu for r, w, k, v, a, g
    W_r ...    receptance, key, value, output: replaced by W + dW (eq. 8-12)
    w          log of the decay, -e^-0.5 sigmoid(w0 + tanh(x w1) w2), per channel and token
    a          in-context learning rate, sigmoid(a0 + x a1 a2)
    kk         the direction that is replaced: k * k_k, of unit length in each head; taken before k's own change
    k          k (1 + (a - 1) k_a)
    v          in layers after the first moved towards the first layer's, by sigmoid(v0 + x v1 v2)
    S          memory, (N, N) per head: S <- S diag(e^w) - (S kk) (kk a)^T + v k^T; y = S r
    y          group norm of S r, plus the bonus (r . k r_k) v: `Taps.memory`
    g          gate, sigmoid(x g1) g2

Parameter names are those of BlinkDL's `.pth` files. Deviations: the recurrent state is fp32 (fp64 in an fp64 model)
whatever the weights are; widths, ranks and the heads' size are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from prosg.backbones.fused import BlockTable, Weights
from prosg.backbones.layers import (
    MetaAwareLinear,
    add_memories,
    anchor_to_memories,
    pull_memories,
)
from prosg.backbones.layouts import RWKV7_LAYOUT
from prosg.backbones.native import Block, BlockContext, BlockOutput, NativeBackbone, check_positive
from prosg.backbones.step_buffers import (
    BlocksOutput,
    Buffers,
    StepState,
    leaf_addresses,
    leaf_tensors,
    state_addresses,
)
from prosg.core.state import Anchor, State
from prosg.core.update import LowRank
from prosg.ops.block import Addresses, run_blocks
from prosg.ops.library import bits
from prosg.ops.operation import Operation
from prosg.ops.step import RWKV7Vectors, Shifted, finish, project_each, replacement, shift_mix
from prosg.ops.wkv7 import WKV7, WKV7Kernel

__all__ = ["RWKV7", "RWKV7_SIZES", "RWKV7Config", "RWKV7Layer"]

LN_X_EPS = 64e-5
"""eps of the group norm in BlinkDL's code, for any size of heads."""


@dataclass(frozen=True)
class RWKV7Config:
    """Sizes of an RWKV-7 model. Where 0 is allowed, it takes the default of BlinkDL's trainer.

    Args:
        vocab_size: Number of tokens V.
        hidden_size: Width E.
        num_layers: Number of blocks L.
        attention_size: Channels C of all heads together, a multiple of `head_size`; 0 takes E.
        ffn_size: Inner width of channel-mixing; 0 takes 4 E.
        head_size: Channels of a head, N.
        decay_rank: Inner width of w1 w2.
        rate_rank: Inner width of a1 a2.
        value_rank: Inner width of v1 v2.
        gate_rank: Inner width of g1 g2.
        ln_x_eps: eps of the group norm.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    attention_size: int = 0
    ffn_size: int = 0
    head_size: int = 64
    decay_rank: int = 0
    rate_rank: int = 0
    value_rank: int = 0
    gate_rank: int = 0
    ln_x_eps: float = LN_X_EPS

    model_type = "rwkv7"

    def __post_init__(self) -> None:
        check_positive(self, "vocab_size", "hidden_size", "num_layers", "head_size")
        if self.head_size == 1:
            raise ValueError("RWKV7Config.head_size is 1, must be at least 2: a group norm of one channel is always 0")
        e = self.hidden_size

        def rank(factor: float, power: float) -> int:
            return max(32, 32 * int(factor * e**power / 32 + 0.5))

        usual = {"attention_size": e, "ffn_size": 4 * e, "decay_rank": rank(1.8, 0.5), "rate_rank": rank(1.8, 0.5)}
        usual |= {"value_rank": rank(1.3, 0.5), "gate_rank": rank(0.6, 0.8)}
        for name, size in usual.items():
            object.__setattr__(self, name, getattr(self, name) or size)
        if self.num_layers == 1:  # no layer has a v1
            object.__setattr__(self, "value_rank", usual["value_rank"])
        if self.attention_size % self.head_size:
            raise ValueError(
                f"RWKV7Config.attention_size is {self.attention_size}, must be a multiple of head_size {self.head_size}"
            )

    @property
    def num_heads(self) -> int:
        """Number of heads H."""
        return self.attention_size // self.head_size


RWKV7_SIZES: dict[str, RWKV7Config] = {
    "debug": RWKV7Config(vocab_size=256, hidden_size=32, num_layers=2, head_size=16),
    "demo": RWKV7Config(vocab_size=1024, hidden_size=96, num_layers=3, head_size=32),
    "0.1B": RWKV7Config(vocab_size=65536, hidden_size=768, num_layers=12),
    "0.4B": RWKV7Config(vocab_size=65536, hidden_size=1024, num_layers=24, gate_rank=128),
    "1.5B": RWKV7Config(vocab_size=65536, hidden_size=2048, num_layers=24),
    "2.9B": RWKV7Config(vocab_size=65536, hidden_size=2560, num_layers=32),
    "7.2B": RWKV7Config(vocab_size=65536, hidden_size=4096, num_layers=32),
}
"""Published sizes of the World models, and two small ones. Ranks of a file are read from the file."""


class RWKV7Layer(NamedTuple):
    """State of one block: the last inputs of both token shifts (B, E), and the memory (B, H, N, N), rows for values."""

    att_shift: Tensor
    ffn_shift: Tensor
    memory: Tensor


class RWKV7Stream(NamedTuple):
    """The residual stream: what a layer passes to the next."""

    x: Tensor
    """(B, T, E)"""
    first: Tensor | None
    """(B, T, C) the first layer's value, computed under its update; None before that layer"""


class RWKV7TimeMix(nn.Module):
    """Time-mixing: token shift, r w k v a g, the recurrence, group norm, bonus, gate, output projection."""

    def __init__(self, config: RWKV7Config, index: int) -> None:
        super().__init__()
        width, size, heads = config.hidden_size, config.attention_size, config.num_heads
        self.heads, self.eps = heads, config.ln_x_eps

        def vector(length: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(1, 1, length))

        def pair(rank: int) -> tuple[nn.Parameter, nn.Parameter]:
            return nn.Parameter(torch.zeros(width, rank)), nn.Parameter(torch.zeros(rank, size))

        self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g = (vector(width) for _ in range(6))
        self.w0, (self.w1, self.w2) = vector(size), pair(config.decay_rank)
        self.a0, (self.a1, self.a2) = vector(size), pair(config.rate_rank)
        if index > 0:  # the first layer's value is what the others are moved towards
            self.v0, (self.v1, self.v2) = vector(size), pair(config.value_rank)
        self.g1, self.g2 = pair(config.gate_rank)
        self.k_k, self.k_a = vector(size), vector(size)
        self.r_k = nn.Parameter(torch.zeros(heads, config.head_size))
        self.receptance = MetaAwareLinear(width, size, bias=False)
        self.key = MetaAwareLinear(width, size, bias=False)
        self.value = MetaAwareLinear(width, size, bias=False)
        self.output = MetaAwareLinear(size, width, bias=False)
        self.ln_x = nn.GroupNorm(heads, size, eps=config.ln_x_eps)

    @property
    def mixes(self) -> tuple[Tensor, ...]:
        """Shares of the predecessor in what r, w, k, v, a and g are computed from."""
        return self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g

    def forward(
        self, x: Shifted, first: Tensor | None, layer: RWKV7Layer, deltas: Mapping[str, LowRank], context: BlockContext
    ) -> tuple[Tensor, Tensor, Tensor, RWKV7Layer]:
        """x mixed (B, T, E), first layer's value -> y (B, T, E), `Taps.memory` (B, T, C), that value, state."""
        kernel: WKV7Kernel = context.kernel
        x_r, x_w, x_k, x_v, x_a, x_g = x.mixed
        r, k, v = project_each(
            (self.receptance, self.key, self.value),
            (x_r, x_k, x_v),
            [deltas.get(name) for name in ("receptance", "key", "value")],
            context.active,
        )
        w = torch.tanh(x_w @ self.w1) @ self.w2
        a = x_a @ self.a1 @ self.a2
        g = torch.sigmoid(x_g @ self.g1) @ self.g2
        mix, v0 = (None, None) if first is None else (x_v @ self.v1 @ self.v2, self.v0)
        vectors = RWKV7Vectors(self.w0, self.a0, v0, self.k_k, self.k_a)
        read = replacement(r, k, v, w, a, mix, first, vectors, self.heads, layer.memory.dtype)
        y, memory = kernel(*read, layer.memory, context.lengths, context.pull)
        tap, gated = finish(y, read, self.r_k, self.ln_x, g)
        (out,) = project_each((self.output,), (gated,), (deltas.get("output"),), context.active)
        return out, tap, v if first is None else first, layer._replace(att_shift=x.last, memory=memory)


class RWKV7ChannelMix(nn.Module):
    """Channel-mixing: token shift, squared ReLU."""

    def __init__(self, config: RWKV7Config) -> None:
        super().__init__()
        self.x_k = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.key = MetaAwareLinear(config.hidden_size, config.ffn_size, bias=False)
        self.value = MetaAwareLinear(config.ffn_size, config.hidden_size, bias=False)

    @property
    def mixes(self) -> tuple[Tensor]:
        """Share of the predecessor in what the key reads."""
        return (self.x_k,)

    def forward(self, x: Shifted, layer: RWKV7Layer) -> tuple[Tensor, RWKV7Layer]:
        """x mixed (B, T, E) -> y (B, T, E), state."""
        (k,) = x.mixed
        return self.value(torch.relu(self.key(k)).square()), layer._replace(ffn_shift=x.last)


class RWKV7Block(Block):
    """ln1 -> time-mixing, ln2 -> channel-mixing, both residual; block 0 starts with ln0."""

    att: RWKV7TimeMix

    def __init__(self, config: RWKV7Config, index: int) -> None:
        super().__init__()
        if index == 0:
            self.ln0 = nn.LayerNorm(config.hidden_size)
        self.ln1 = nn.LayerNorm(config.hidden_size)
        self.ln2 = nn.LayerNorm(config.hidden_size)
        self.att = RWKV7TimeMix(config, index)
        self.ffn = RWKV7ChannelMix(config)

    def forward(
        self, stream: RWKV7Stream, layer: RWKV7Layer, deltas: Mapping[str, LowRank], context: BlockContext
    ) -> BlockOutput:
        """Residual stream -> residual stream."""
        lengths = context.lengths
        read = shift_mix(stream.x, None, self.ln1, layer.att_shift, self.att.mixes, True, lengths)
        y, memory, first, layer = self.att(read, stream.first, layer, deltas, context)
        again = shift_mix(read.stream, y, self.ln2, layer.ffn_shift, self.ffn.mixes, True, lengths)
        y, layer = self.ffn(again, layer)
        return BlockOutput(RWKV7Stream(again.stream + y, first), layer, read.seen, memory)


class RWKV7(NativeBackbone):
    """RWKV-7; see `Backbone` for its methods."""

    perturbations = ("wipe", "swap", "load", "start")
    memory_grows = True  # transitions are not normal: products of them can lengthen what they are given
    site_names = ("receptance", "key", "value", "output")
    operation: ClassVar[Operation[WKV7Kernel]] = WKV7
    layout = RWKV7_LAYOUT
    table = BlockTable(
        block=RWKV7Block,
        vectors=(
            *("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "att.ln_x.weight", "att.ln_x.bias"),
            *("att.x_r", "att.x_w", "att.x_k", "att.x_v", "att.x_a", "att.x_g", "ffn.x_k"),
            *("att.w0", "att.a0", "att.v0", "att.k_k", "att.k_a", "att.r_k"),
            *("att.w1", "att.w2", "att.a1", "att.a2", "att.v1", "att.v2", "att.g1", "att.g2"),
        ),
        wide=frozenset({"att.w0"}),
        later=frozenset({"att.v0", "att.v1", "att.v2"}),
        matrices=("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value"),
    )

    config: RWKV7Config
    blocks: Sequence[RWKV7Block]

    def __init__(self, config: RWKV7Config, kernel: str = "auto") -> None:
        super().__init__(config, [RWKV7Block(config, i) for i in range(config.num_layers)], kernel)

    def embed(self, tokens: Tensor) -> RWKV7Stream:
        """(B, T) -> x (B, T, E)."""
        return RWKV7Stream(self.blocks[0].ln0(self.emb(tokens)), None)

    def hidden(self, stream: RWKV7Stream) -> Tensor:
        """x (B, T, E)."""
        return stream.x

    def run_step(
        self, x: Tensor, state: State, weights: Weights, factors: Addresses | None, anchor: Anchor | None, tapped: bool
    ) -> BlocksOutput:
        """All blocks for one token of each row, in one call."""
        (batch, _, width), blocks = x.shape, weights.blocks
        (heads, head_size), inner = weights.shape("att.r_k"), weights.shape("ffn.key")[0]
        memory = (batch, heads, head_size, head_size)
        shapes = ((batch, width), (batch, width), memory)
        before = state_addresses(state, shapes)
        shifts, shift_at = leaf_tensors(x, 2 * blocks, shapes[0])
        # Each block's memory by itself: one piece of all would be too large to be used again without fresh pages.
        memories = [x.new_empty(memory, dtype=torch.float32) for _ in range(blocks)]
        memory_at = [leaf.data_ptr() for leaf in memories]
        buffers = Buffers(x, blocks, heads * head_size, tapped)
        step, pulls = buffers.addresses, []
        for i in range(blocks):
            step += before[i]
            if anchor is None:
                step += (None, None)
            else:
                pulls.append(anchor[i]._replace(log_keep=anchor[i].log_keep.exp()))  # kept: the library reads it
                step += leaf_addresses(pulls[-1], (memory, memory[:2]))
            step += (shift_at[2 * i], memory_at[i])
        low = sum(weights.shape(f"att.{name}")[1] << 16 * place for place, name in enumerate(("w1", "a1", "v1", "g1")))
        eps = bits(weights.eps[nn.LayerNorm]), bits(weights.eps[nn.GroupNorm])
        sizes = (batch, width, heads, head_size, inner, *eps, low)
        run_blocks("rwkv7", x.dtype, sizes, blocks, weights.addresses, factors, step)
        after = StepState(RWKV7Layer(shifts[2 * i], shifts[2 * i + 1], memories[i]) for i in range(blocks))
        after.shapes = shapes
        after.addresses = [(*shift_at[2 * i : 2 * i + 2], memory_at[i]) for i in range(blocks)]
        return buffers.output(after)

    def init_state(self, batch: int) -> tuple[RWKV7Layer, ...]:
        """Returns zeros."""
        e, n = self.config.hidden_size, self.config.head_size
        memory = (batch, self.config.num_heads, n, n)
        return tuple(RWKV7Layer(self.full(batch, e), self.full(batch, e), self.full(*memory)) for _ in self.blocks)

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """S <- S e^shift. Raises ValueError for steps other than 0, since the decay depends on the tokens."""
        if bool((steps != 0).any()):
            raise ValueError("RWKV-7's memory cannot be aged by steps: its decay depends on the text; use load")
        factor = torch.exp(shift.to(self.state_dtype)).view(-1, 1, 1, 1)
        return tuple(layer._replace(memory=factor * layer.memory) for layer in state)

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """S <- keep S + S_other, in rows whose weight is not 0."""
        return add_memories(state, other, keep, weight)

    @property
    def anchor_units(self) -> tuple[int, ...]:
        """The heads of each layer."""
        return (self.config.num_heads,) * self.config.num_layers

    def make_anchor(self, target: State, log_keep: Sequence[Tensor], share: Sequence[Tensor]) -> Anchor:
        """S <- e^log_keep S + share S_target, per head."""
        return anchor_to_memories(target, log_keep, share)

    def anchor(self, state: State, anchor: Anchor) -> State:
        """Returns a state after one pull."""
        return pull_memories(state, anchor)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws initial weights: vectors as published with RWKV-7, matrices by their number of inputs."""
        c = self.config
        width = torch.arange(c.hidden_size) / c.hidden_size
        channel = torch.arange(c.attention_size) / max(c.attention_size - 1, 1)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and not name.endswith("r_k"):
                inputs = parameter.shape[0 if name[-1] in "12" else 1]  # x @ w1, x @ w2 and the like
                std = 0.02 if name in ("emb.weight", "head.weight") else inputs**-0.5
                parameter.normal_(0.0, std, generator=generator)
        for i, block in enumerate(self.blocks):
            depth, rest = i / max(c.num_layers - 1, 1), 1 - i / c.num_layers
            att = block.att
            for mu, power in ((att.x_r, 0.2), (att.x_w, 0.9), (att.x_k, 0.7), (att.x_v, 0.7), (att.x_a, 0.9)):
                mu.copy_((1 - width ** (power * rest)).view(1, 1, -1))
            att.x_g.copy_((1 - width ** (0.2 * rest)).view(1, 1, -1))
            block.ffn.x_k.copy_((1 - width ** (rest**4)).view(1, 1, -1))
            att.w0.copy_((-6.5 + 5 * channel ** (0.85 + depth**0.5)).view(1, 1, -1))
            if i > 0:
                att.v0.fill_(1.0)
                att.v1.zero_()
            for first in (att.w1, att.a1):
                first.zero_()
            for second in (att.w2, att.a2):
                second.mul_(0.1)
            att.k_k.fill_(0.85)
            att.k_a.fill_(1.0)
            att.ln_x.weight.fill_(((1 + i) / c.num_layers) ** 0.7)
