"""RWKV-4 (arXiv 2305.13048), the paper's backbone, with a per-row update of its time-mixing projections.

    tokens -> emb -> ln0 -> L x (x + RWKV4TimeMix(ln1 x); x + RWKV4ChannelMix(ln2 x)) -> ln_out -> head -> logits

Symbols, with the equations of ProSG (arXiv 2311.01981):

    x_t       time-mixing input, after ln1: `Taps.inputs`; at the prompt's last token the paper's x (eq. 13-16)
    mu_k ...  time_mix_{k,v,r}: token shift, mu x_t + (1 - mu) x_{t-1}
    W_r ...   receptance, key, value, output: replaced by W + dW (eq. 8-12)
    y_t       what the recurrence returns (eq. 6): `Taps.memory`

Parameter names are those of BlinkDL's `.pth` files, so `state_dict()` is a checkpoint. Deviations: the recurrent state
is fp32 (fp64 in an fp64 model) whatever the weights are; `attention_size` and `ffn_size` are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from prosg.backbones.fused import BlockTable, Weights
from prosg.backbones.layers import MetaAwareLinear
from prosg.backbones.layouts import RWKV4_LAYOUT
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
from prosg.ops.step import Shifted, project_each, shift_mix
from prosg.ops.wkv4 import EMPTY_TOP, WKV4, WKV4Kernel, WKV4Memory, WKV4Pull, pull_wkv4

__all__ = ["RWKV4", "RWKV4_SIZES", "RWKV4Config", "RWKV4Layer"]


@dataclass(frozen=True)
class RWKV4Config:
    """Sizes of an RWKV-4 model.

    Args:
        vocab_size: Number of tokens V.
        hidden_size: Width E.
        num_layers: Number of blocks L.
        attention_size: Channels of the recurrence C; 0 takes E.
        ffn_size: Inner width of channel-mixing; 0 takes 4 E.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    attention_size: int = 0
    ffn_size: int = 0

    model_type = "rwkv4"

    def __post_init__(self) -> None:
        check_positive(self, "vocab_size", "hidden_size", "num_layers")
        object.__setattr__(self, "attention_size", self.attention_size or self.hidden_size)
        object.__setattr__(self, "ffn_size", self.ffn_size or 4 * self.hidden_size)


RWKV4_SIZES: dict[str, RWKV4Config] = {
    "debug": RWKV4Config(vocab_size=256, hidden_size=32, num_layers=2),
    "demo": RWKV4Config(vocab_size=1024, hidden_size=96, num_layers=3),
    "169M": RWKV4Config(vocab_size=50277, hidden_size=768, num_layers=12),
    "0.4B": RWKV4Config(vocab_size=50277, hidden_size=1024, num_layers=24),
    "1.5B": RWKV4Config(vocab_size=50277, hidden_size=2048, num_layers=24),
    "3B": RWKV4Config(vocab_size=50277, hidden_size=2560, num_layers=32),
    "7B": RWKV4Config(vocab_size=50277, hidden_size=4096, num_layers=32),
    "14B": RWKV4Config(vocab_size=50277, hidden_size=5120, num_layers=40),
}
"""Published sizes (Pile vocabulary; the World models have vocab_size 65536) and two small ones."""


class RWKV4Layer(NamedTuple):
    """State of one block: the last inputs of both token shifts (B, E), and the memory (B, C)."""

    att_shift: Tensor
    ffn_shift: Tensor
    num: Tensor
    den: Tensor
    top: Tensor


class RWKV4TimeMix(nn.Module):
    """Time-mixing: token shift, r k v, the recurrence, the gate, the output projection."""

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        width, size = config.hidden_size, config.attention_size
        self.time_decay = nn.Parameter(torch.zeros(size))
        self.time_first = nn.Parameter(torch.zeros(size))
        self.time_mix_k = nn.Parameter(torch.zeros(1, 1, width))
        self.time_mix_v = nn.Parameter(torch.zeros(1, 1, width))
        self.time_mix_r = nn.Parameter(torch.zeros(1, 1, width))
        self.key = MetaAwareLinear(width, size, bias=False)
        self.value = MetaAwareLinear(width, size, bias=False)
        self.receptance = MetaAwareLinear(width, size, bias=False)
        self.output = MetaAwareLinear(size, width, bias=False)

    @property
    def mixes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Shares of the token in what key, value and receptance read."""
        return self.time_mix_k, self.time_mix_v, self.time_mix_r

    def forward(
        self, x: Shifted, layer: RWKV4Layer, deltas: Mapping[str, LowRank], context: BlockContext
    ) -> tuple[Tensor, Tensor, RWKV4Layer]:
        """x mixed (B, T, E) -> y (B, T, E), what the recurrence returned (B, T, C), state."""
        kernel: WKV4Kernel = context.kernel
        k, v, r = project_each(
            (self.key, self.value, self.receptance),
            x.mixed,
            [deltas.get(name) for name in ("key", "value", "receptance")],
            context.active,
        )
        wide = layer.num.dtype
        memory, (num, den, top) = kernel(
            -torch.exp(self.time_decay.to(wide)),
            self.time_first.to(wide),
            k.to(wide),
            v.to(wide),
            WKV4Memory(layer.num, layer.den, layer.top),
            context.lengths,
            context.pull,
        )
        gated = torch.sigmoid(r) * memory.to(r.dtype)
        (y,) = project_each((self.output,), (gated,), (deltas.get("output"),), context.active)
        return y, memory, layer._replace(att_shift=x.last, num=num, den=den, top=top)


class RWKV4ChannelMix(nn.Module):
    """Channel-mixing: token shift, squared ReLU, gate."""

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.time_mix_k = nn.Parameter(torch.zeros(1, 1, width))
        self.time_mix_r = nn.Parameter(torch.zeros(1, 1, width))
        self.key = MetaAwareLinear(width, config.ffn_size, bias=False)
        self.receptance = MetaAwareLinear(width, width, bias=False)
        self.value = MetaAwareLinear(config.ffn_size, width, bias=False)

    @property
    def mixes(self) -> tuple[Tensor, Tensor]:
        """Shares of the token in what key and receptance read."""
        return self.time_mix_k, self.time_mix_r

    def forward(self, x: Shifted, layer: RWKV4Layer) -> tuple[Tensor, RWKV4Layer]:
        """x mixed (B, T, E) -> y (B, T, E), state."""
        k, r = x.mixed
        y = torch.sigmoid(self.receptance(r)) * self.value(torch.relu(self.key(k)).square())
        return y, layer._replace(ffn_shift=x.last)


class RWKV4Block(Block):
    """ln1 -> time-mixing, ln2 -> channel-mixing, both residual; block 0 starts with ln0."""

    att: RWKV4TimeMix

    def __init__(self, config: RWKV4Config, index: int) -> None:
        super().__init__()
        if index == 0:
            self.ln0 = nn.LayerNorm(config.hidden_size)
        self.ln1 = nn.LayerNorm(config.hidden_size)
        self.ln2 = nn.LayerNorm(config.hidden_size)
        self.att = RWKV4TimeMix(config)
        self.ffn = RWKV4ChannelMix(config)

    def forward(
        self, stream: Tensor, layer: RWKV4Layer, deltas: Mapping[str, LowRank], context: BlockContext
    ) -> BlockOutput:
        """Residual stream x (B, T, E) -> x."""
        lengths = context.lengths
        read = shift_mix(stream, None, self.ln1, layer.att_shift, self.att.mixes, lengths=lengths)
        y, memory, layer = self.att(read, layer, deltas, context)
        again = shift_mix(stream, y, self.ln2, layer.ffn_shift, self.ffn.mixes, lengths=lengths)
        y, layer = self.ffn(again, layer)
        return BlockOutput(again.stream + y, layer, read.seen, memory)


class RWKV4(NativeBackbone):
    """RWKV-4; see `Backbone` for its methods."""

    site_names = ("key", "value", "receptance", "output")
    operation: ClassVar[Operation[WKV4Kernel]] = WKV4
    layout = RWKV4_LAYOUT
    table = BlockTable(
        block=RWKV4Block,
        vectors=(
            *("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "att.time_decay", "att.time_first"),
            *("att.time_mix_k", "att.time_mix_v", "att.time_mix_r", "ffn.time_mix_k", "ffn.time_mix_r"),
        ),
        wide=frozenset({"att.time_decay", "att.time_first"}),
        matrices=(
            *("att.key", "att.value", "att.receptance", "att.output"),
            *("ffn.key", "ffn.receptance", "ffn.value"),
        ),
    )

    config: RWKV4Config
    blocks: Sequence[RWKV4Block]

    def __init__(self, config: RWKV4Config, kernel: str = "auto") -> None:
        super().__init__(config, [RWKV4Block(config, i) for i in range(config.num_layers)], kernel)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, E)."""
        x: Tensor = self.blocks[0].ln0(self.emb(tokens))
        return x

    def run_step(
        self, x: Tensor, state: State, weights: Weights, factors: Addresses | None, anchor: Anchor | None, tapped: bool
    ) -> BlocksOutput:
        """All blocks for one token of each row, in one call."""
        (batch, _, width), blocks = x.shape, weights.blocks
        size, inner = weights.shape("att.key")[0], weights.shape("ffn.key")[0]
        memory = (batch, size)
        shapes = ((batch, width), (batch, width), memory, memory, memory)
        before = state_addresses(state, shapes)
        shifts, shift_at = leaf_tensors(x, 2 * blocks, shapes[0])
        rest, rest_at = leaf_tensors(x, 3 * blocks, memory)
        buffers = Buffers(x, blocks, size, tapped)
        step = buffers.addresses
        for i in range(blocks):
            step += before[i]
            step += [None] * 4 if anchor is None else leaf_addresses(anchor[i], (memory,) * 4)
            step += (shift_at[2 * i], rest_at[3 * i])
        sizes = (batch, width, size, inner, bits(weights.eps[nn.LayerNorm]))
        run_blocks("rwkv4", x.dtype, sizes, blocks, weights.addresses, factors, step)
        after = StepState(RWKV4Layer(*shifts[2 * i : 2 * i + 2], *rest[3 * i : 3 * i + 3]) for i in range(blocks))
        after.shapes = shapes
        after.addresses = [(*shift_at[2 * i : 2 * i + 2], *rest_at[3 * i : 3 * i + 3]) for i in range(blocks)]
        return buffers.output(after)

    def init_state(self, batch: int) -> tuple[RWKV4Layer, ...]:
        """Returns token shifts of zeros and an empty memory."""
        shift, memory = (batch, self.config.hidden_size), (batch, self.config.attention_size)
        return tuple(
            RWKV4Layer(
                att_shift=self.full(*shift),
                ffn_shift=self.full(*shift),
                num=self.full(*memory),
                den=self.full(*memory),
                top=self.full(*memory, value=EMPTY_TOP),
            )
            for _ in self.blocks
        )

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """top <- top + shift + w steps, which multiplies the memory (num, den) e^top by e^(shift + w steps)."""
        aged = []
        for w, layer in zip(self.log_decay, state, strict=True):
            decay = shift.unsqueeze(1) + steps.unsqueeze(1) * w
            # top is never differentiated, so the gradient of the decay passes through (num, den), by a factor of one.
            unit = torch.exp(decay - decay.detach())
            aged.append(layer._replace(num=layer.num * unit, den=layer.den * unit, top=layer.top + decay.detach()))
        return tuple(aged)

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """(num, den) <- keep (num, den) + weight den_ref (num_other / den_other, 1), per channel.

        The memory is read as num / den, so what counts is the other memory's mean, relative to this memory's weight. It
        is scaled by the den of `reference`; unscaled, training makes keys, and with them the loaded memories, grow
        without bound.
        """
        loaded = []
        for layer, other_layer, ref in zip(state, other, reference, strict=True):
            top = torch.maximum(layer.top, ref.top)
            scale = keep.unsqueeze(1) * torch.exp(layer.top - top)
            other_scale = weight.unsqueeze(1) * ref.den * torch.exp(ref.top - top)
            mean = other_layer.num / other_layer.den.clamp(min=torch.finfo(other_layer.den.dtype).tiny)
            num, den = scale * layer.num + other_scale * mean, scale * layer.den + other_scale
            loaded.append(layer._replace(num=num, den=den, top=top))
        return tuple(loaded)

    @property
    def anchor_units(self) -> tuple[int, ...]:
        """The channels of each layer's memory."""
        return (self.config.attention_size,) * self.config.num_layers

    @property
    def log_decay(self) -> tuple[Tensor, ...]:
        """Per layer w (C,): the logarithm of what is left of the memory after a token."""
        return tuple(-torch.exp(block.att.time_decay.to(self.state_dtype)) for block in self.blocks)

    def make_anchor(self, target: State, log_keep: Sequence[Tensor], share: Sequence[Tensor]) -> tuple[WKV4Pull, ...]:
        """(num, den) e^top <- e^log_keep (num, den) e^top + share (num, den) e^top of the target, per channel."""
        return tuple(
            WKV4Pull(
                layer.num * added,
                layer.den * added,
                layer.top,
                keep.to(layer.num.dtype).expand_as(layer.num).contiguous(),
            )
            for layer, keep, added in zip(target, log_keep, (one.to(self.state_dtype) for one in share), strict=True)
        )

    def anchor(self, state: State, anchor: Anchor) -> State:
        """Returns a state after one pull, at a common top."""
        return tuple(
            layer._replace(**pull_wkv4(WKV4Memory(layer.num, layer.den, layer.top), pull)._asdict())
            for layer, pull in zip(state, anchor, strict=True)
        )

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws initial weights as RWKV-LM does: decays are spread over channels and layers."""
        c = self.config
        for i, block in enumerate(self.blocks):
            depth = i / max(c.num_layers - 1, 1)
            rest = 1 - i / c.num_layers
            channel = torch.arange(c.attention_size) / max(c.attention_size - 1, 1)
            zigzag = ((torch.arange(c.attention_size) + 1) % 3 - 1) * 0.5
            block.att.time_decay.copy_(-5 + 8 * channel ** (0.7 + 1.3 * depth))
            block.att.time_first.copy_(zigzag + torch.tensor(0.3).log())
            share = (torch.arange(c.hidden_size) / c.hidden_size).view(1, 1, -1)
            block.att.time_mix_k.copy_(share**rest)
            block.att.time_mix_v.copy_(share**rest + 0.3 * depth)
            block.att.time_mix_r.copy_(share ** (0.5 * rest))
            block.ffn.time_mix_k.copy_(share**rest)
            block.ffn.time_mix_r.copy_(share**rest)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                std = 0.02 if name in ("emb.weight", "head.weight") else parameter.shape[1] ** -0.5
                parameter.normal_(0.0, std, generator=generator)
