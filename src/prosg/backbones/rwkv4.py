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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prosg.backbones.base import TAPS, Logits, Output, Taps, last_valid, shift_tokens
from prosg.lowrank import LowRank, Site, Update, check_update, project
from prosg.ops import wkv4
from prosg.state import State

__all__ = ["RWKV4", "RWKV4_SIZES", "RWKV4Config", "RWKV4Layer"]

SITE_NAMES = ("key", "value", "receptance", "output")


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


class Linear(nn.Linear):
    """nn.Linear that draws no initial weights where it has no storage: on the meta device that costs seconds."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Embedding(nn.Embedding):
    """nn.Embedding, likewise."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


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
        active: Tensor | None,
        lengths: Tensor | None,
        kernel: wkv4.Kernel,
    ) -> tuple[Tensor, Tensor, RWKV4Layer]:
        """x (B, T, E) -> y (B, T, E), memory tap (B, T, C), state."""
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


class Block(nn.Module):
    """ln1 -> time-mixing, ln2 -> channel-mixing, both residual; block 0 starts with ln0."""

    def __init__(self, config: RWKV4Config, index: int) -> None:
        super().__init__()
        if index == 0:
            self.ln0 = nn.LayerNorm(config.hidden_size)
        self.ln1 = nn.LayerNorm(config.hidden_size)
        self.ln2 = nn.LayerNorm(config.hidden_size)
        self.att = TimeMix(config)
        self.ffn = ChannelMix(config)


class RWKV4(nn.Module):
    """RWKV-4 as a function of (tokens, state, update); see `Backbone`."""

    def __init__(self, config: RWKV4Config, kernel: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.emb = Embedding(config.vocab_size, config.hidden_size)
        # Typed as what it holds: a ModuleList is a sequence of bare Modules to a type checker.
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config, i) for i in range(config.num_layers))  # type: ignore[assignment]
        self.ln_out = nn.LayerNorm(config.hidden_size)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.kernel = kernel

    @property
    def sites(self) -> dict[Site, tuple[int, int]]:
        """key, value, receptance (C, E) and output (E, C) of every time-mixing block."""
        return {
            Site(i, name): (linear.out_features, linear.in_features)
            for i, block in enumerate(self.blocks)
            for name, linear in ((name, getattr(block.att, name)) for name in SITE_NAMES)
        }

    @property
    def tap_widths(self) -> tuple[tuple[int, int], ...]:
        """(E, C) per layer."""
        return ((self.config.hidden_size, self.config.attention_size),) * self.config.num_layers

    @property
    def kernel_in_use(self) -> str:
        """Which implementation of the recurrence runs here, and why."""
        if self.kernel == "auto":
            return wkv4.describe(self.emb.weight.device, self.state_dtype)
        wkv4.kernel(self.kernel, self.emb.weight.device, self.state_dtype)  # raises where there is no such thing
        return f"wkv4: {self.kernel} (chosen)"

    @property
    def state_dtype(self) -> torch.dtype:
        """fp32, or fp64 in an fp64 model."""
        return torch.promote_types(self.emb.weight.dtype, torch.float32)

    def init_state(self, batch: int) -> tuple[RWKV4Layer, ...]:
        """Zeros, and an empty memory."""
        c = self.config

        def full(width: int, value: float = 0.0) -> Tensor:
            return torch.full((batch, width), value, dtype=self.state_dtype, device=self.emb.weight.device)

        e, a = c.hidden_size, c.attention_size
        return tuple(
            RWKV4Layer(full(e), full(e), full(a), full(a), full(a, wkv4.EMPTY_TOP)) for _ in range(c.num_layers)
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

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        update: Update | None = None,
        update_from: Tensor | None = None,
        lengths: Tensor | None = None,
        logits: Logits = "all",
        taps: Collection[str] = (),
    ) -> Output:
        """tokens (B, T) int64 -> Output; see `Backbone`. Raises ValueError for an update or taps that do not fit."""
        batch, time = tokens.shape
        state = self.init_state(batch) if state is None else state
        deltas: list[dict[str, LowRank]] = [{} for _ in self.blocks]
        if update is not None:
            check_update(update, self.sites, batch)
            for site, low_rank in update.items():
                deltas[site.layer][site.name] = low_rank
        if unknown := set(taps) - set(TAPS):
            raise ValueError(f"unknown taps {sorted(unknown)}; known are {', '.join(TAPS)}")
        kernel = wkv4.kernel(self.kernel, tokens.device, self.state_dtype)

        x = self.blocks[0].ln0(self.emb(tokens))
        active = None
        if update_from is not None:
            position = torch.arange(time, device=tokens.device)
            active = (position >= update_from.unsqueeze(1)).unsqueeze(2).to(x.dtype)
        layers, last, inputs, memories = [], [], [], []
        for block, layer, delta in zip(self.blocks, state, deltas, strict=True):
            seen = block.ln1(x)
            y, memory, layer = block.att(seen, layer, delta, active, lengths, kernel)
            x = x + y
            y, layer = block.ffn(block.ln2(x), layer, lengths)
            x = x + y
            layers.append(layer)
            if "last" in taps:
                last.append(layer.att_shift.to(seen.dtype))
            if "inputs" in taps:
                inputs.append(seen)
            if "memory" in taps:
                memories.append(memory)
        out = None
        if logits == "all":
            out = self.head(self.ln_out(x))
        elif logits == "last":
            out = self.head(self.ln_out(last_valid(x, x[:, 0], lengths)))
        return Output(out, tuple(layers), Taps(tuple(last), tuple(inputs), tuple(memories)))

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
