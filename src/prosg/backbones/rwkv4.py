"""RWKV-4 (arXiv 2305.13048), the paper's backbone, with a per-row update of its time-mixing projections.

    tokens -> emb -> ln0 -> L x (x + TimeMix(ln1 x); x + ChannelMix(ln2 x)) -> ln_out -> head -> logits

Symbols and where they stand (equations of ProSG, arXiv 2311.01981):

    x_t       time-mix input, after ln1; `Taps.inputs`, and at the prompt's last token the paper's x (eq. 13-16)
    mu_k ...  time_mix_{k,v,r}: token shift, mu x_t + (1 - mu) x_{t-1}
    W_r ...   receptance, key, value, output: replaced by W + dW (eq. 8-12)
    y_t       what the recurrence returns (eq. 6); `Taps.memory`

Parameter names are those of BlinkDL's `.pth` files, so `state_dict()` is a checkpoint. Deviations: the recurrent state
is fp32 (fp64 in an fp64 model) whatever the weights are; `attention_size` and `ffn_size` are free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from prosg.backbones.base import last_valid, shift_tokens
from prosg.backbones.native import Block, Call, Linear, Mixed, Native
from prosg.core.state import State
from prosg.core.update import LowRank, project
from prosg.ops import wkv4

__all__ = ["RWKV4", "RWKV4_SIZES", "RWKV4Config", "RWKV4Layer"]


@dataclass(frozen=True)
class RWKV4Config:
    """Sizes of an RWKV-4 model; `attention_size` and `ffn_size` default to E and 4 E."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    attention_size: int = 0
    ffn_size: int = 0

    model_type = "rwkv4"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"RWKV4Config.{name} is {getattr(self, name)}, must be at least 1")
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
    """Recurrent state of one block: two token shifts (B, E) and the memory (B, C)."""

    att_shift: Tensor
    ffn_shift: Tensor
    num: Tensor
    den: Tensor
    top: Tensor


class TimeMix(nn.Module):
    """Time-mixing block: token shift, r k v, the recurrence, the gate, the output projection."""

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        width, size = config.hidden_size, config.attention_size
        self.time_decay = nn.Parameter(torch.zeros(size))
        self.time_first = nn.Parameter(torch.zeros(size))
        self.time_mix_k = nn.Parameter(torch.zeros(1, 1, width))
        self.time_mix_v = nn.Parameter(torch.zeros(1, 1, width))
        self.time_mix_r = nn.Parameter(torch.zeros(1, 1, width))
        self.key = Linear(width, size, bias=False)
        self.value = Linear(width, size, bias=False)
        self.receptance = Linear(width, size, bias=False)
        self.output = Linear(size, width, bias=False)

    def forward(
        self,
        x: Tensor,
        layer: RWKV4Layer,
        deltas: Mapping[str, LowRank],
        call: Call,
    ) -> tuple[Tensor, Tensor, RWKV4Layer]:
        """x (B, T, E) -> y (B, T, E), memory tap (B, T, C), state."""
        active, lengths, kernel = call
        shifted = shift_tokens(x, layer.att_shift)
        k = project(self.key, torch.lerp(shifted, x, self.time_mix_k), deltas.get("key"), active)
        v = project(self.value, torch.lerp(shifted, x, self.time_mix_v), deltas.get("value"), active)
        r = project(self.receptance, torch.lerp(shifted, x, self.time_mix_r), deltas.get("receptance"), active)
        wide = layer.num.dtype
        memory, (num, den, top) = kernel(
            -torch.exp(self.time_decay.to(wide)),
            self.time_first.to(wide),
            k.to(wide),
            v.to(wide),
            wkv4.Memory(layer.num, layer.den, layer.top),
            lengths,
        )
        y = project(self.output, torch.sigmoid(r) * memory.to(r.dtype), deltas.get("output"), active)
        shift = last_valid(x, layer.att_shift, lengths)
        return y, memory, layer._replace(att_shift=shift.to(wide), num=num, den=den, top=top)


class ChannelMix(nn.Module):
    """Channel-mixing block: token shift, squared ReLU, gate."""

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.time_mix_k = nn.Parameter(torch.zeros(1, 1, width))
        self.time_mix_r = nn.Parameter(torch.zeros(1, 1, width))
        self.key = Linear(width, config.ffn_size, bias=False)
        self.receptance = Linear(width, width, bias=False)
        self.value = Linear(config.ffn_size, width, bias=False)

    def forward(self, x: Tensor, layer: RWKV4Layer, lengths: Tensor | None) -> tuple[Tensor, RWKV4Layer]:
        """x (B, T, E) -> y (B, T, E), state."""
        shifted = shift_tokens(x, layer.ffn_shift)
        k = self.key(torch.lerp(shifted, x, self.time_mix_k))
        r = self.receptance(torch.lerp(shifted, x, self.time_mix_r))
        y = torch.sigmoid(r) * self.value(torch.relu(k).square())
        shift = last_valid(x, layer.ffn_shift, lengths)
        return y, layer._replace(ffn_shift=shift.to(layer.ffn_shift.dtype))


class RWKV4Block(Block):
    """ln1 -> time-mixing, ln2 -> channel-mixing, both residual; block 0 starts with ln0."""

    def __init__(self, config: RWKV4Config, index: int) -> None:
        super().__init__()
        if index == 0:
            self.ln0 = nn.LayerNorm(config.hidden_size)
        self.ln1 = nn.LayerNorm(config.hidden_size)
        self.ln2 = nn.LayerNorm(config.hidden_size)
        self.att = TimeMix(config)
        self.ffn = ChannelMix(config)

    def forward(self, stream: Tensor, layer: RWKV4Layer, deltas: Mapping[str, LowRank], call: Call) -> Mixed:
        """x (B, T, E) -> x."""
        seen = self.ln1(stream)
        y, memory, layer = self.att(seen, layer, deltas, call)
        x = stream + y
        y, layer = self.ffn(self.ln2(x), layer, call.lengths)
        return Mixed(x + y, layer, seen, memory)


class RWKV4(Native):
    """RWKV-4 as a function of (tokens, state, update); see `Backbone`."""

    site_names = ("key", "value", "receptance", "output")
    kernels: ClassVar[Any] = wkv4

    def __init__(self, config: RWKV4Config, kernel: str = "auto") -> None:
        super().__init__(config, [RWKV4Block(config, i) for i in range(config.num_layers)], kernel)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, E)."""
        x: Tensor = self.blocks[0].ln0(self.emb(tokens))
        return x

    def init_state(self, batch: int) -> tuple[RWKV4Layer, ...]:
        """Zeros, and an empty memory."""
        e, a = (batch, self.config.hidden_size), (batch, self.config.attention_size)
        return tuple(
            RWKV4Layer(
                self.empty(*e), self.empty(*e), self.empty(*a), self.empty(*a), self.empty(*a, value=wkv4.EMPTY_TOP)
            )
            for _ in self.blocks
        )

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """top += shift + w steps: as if `steps` (B,) empty tokens had passed, and e^shift (B,) of the rest."""
        aged = []
        for block, layer in zip(self.blocks, state, strict=True):
            w = -torch.exp(block.att.time_decay.to(layer.top.dtype))
            decay = shift.unsqueeze(1) + steps.unsqueeze(1) * w
            # top is never differentiated, so the gradient of the decay goes by (num, den), through a factor of one.
            one = torch.exp(decay - decay.detach())
            aged.append(layer._replace(num=layer.num * one, den=layer.den * one, top=layer.top + decay.detach()))
        return tuple(aged)

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """(num, den) <- keep (num, den) + weight den_ref (num_other / den_other, 1), per channel.

        The memory is normalised by num / den, so what counts is the other memory's mean beside the own one's weight:
        it is scaled by the reference's den, else keys and bank race each other up. Token shifts are left alone.
        """
        loaded = []
        for layer, strange, ref in zip(state, other, reference, strict=True):
            top = torch.maximum(layer.top, ref.top)
            own = keep.unsqueeze(1) * torch.exp(layer.top - top)
            added = weight.unsqueeze(1) * ref.den * torch.exp(ref.top - top)
            mean = strange.num / strange.den.clamp(min=torch.finfo(strange.den.dtype).tiny)
            loaded.append(layer._replace(num=own * layer.num + added * mean, den=own * layer.den + added, top=top))
        return tuple(loaded)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise for training from scratch, as RWKV-LM does: a spread of decays over channels and layers."""
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
