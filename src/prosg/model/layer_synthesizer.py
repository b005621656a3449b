"""The synthesis module's part in one time-mixing block: read, embed, transform, give the factors (eq. 13-20).

`prosg.model.synthesizer` has the symbols and the equations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prosg.backbones.base import Taps
from prosg.backbones.layers import MetaAwareLinear
from prosg.core.tensors import wide
from prosg.core.update import LowRank
from prosg.model.config import ProSGConfig

__all__ = ["LayerReads", "LayerSynthesizer", "Stack", "make_stack"]


class LayerReads(NamedTuple):
    """What has been read in one layer so far: the last input, or a softmax attention under way."""

    last: Tensor | None
    """(B, E)"""
    top: Tensor | None
    """(B, S) running maximum of the scores; not differentiated."""
    total: Tensor | None
    """(B, S) sum of exp(score - top)."""
    value: Tensor | None
    """(B, S, d) sum of exp(score - top) u."""


class Stack(nn.Module):
    """Transforming stack S (eq. 18): blocks h + LN(L2 relu(L1 h)), shape kept."""

    def __init__(self, width: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.blocks: Sequence[nn.Sequential] = nn.ModuleList(  # type: ignore[assignment]
            nn.Sequential(
                MetaAwareLinear(width, hidden), nn.ReLU(), MetaAwareLinear(hidden, width), nn.LayerNorm(width)
            )
            for _ in range(blocks)
        )
        for block in self.blocks:
            for linear in block:
                if isinstance(linear, nn.Linear):
                    _init_linear(linear, linear.in_features**-0.5)

    def forward(self, h: Float[Tensor, "B S d"]) -> Float[Tensor, "B S d"]:
        for block in self.blocks:
            h = h + block(h)
        return h


class LayerSynthesizer(nn.Module):
    """Reads one layer's taps and gives the factors of its projections."""

    def __init__(
        self, config: ProSGConfig, shapes: Mapping[str, tuple[int, int]], widths: tuple[int, int], stack: Stack | None
    ) -> None:
        super().__init__()
        self.config = config
        self.shapes = dict(shapes)
        n, (width, memory) = config.rank, widths
        self.names = tuple(shapes)
        slots = len(self.names) * n
        if config.reads_positions:
            d = config.bottleneck
            self.from_input = _init_linear(MetaAwareLinear(width, d), width**-0.5)
            if config.memory_tap:
                self.from_memory = _init_linear(MetaAwareLinear(memory, d, bias=False), (3 * width) ** -0.5)
            self.shape = (slots, d)
            if config.reads == "all_positions":
                self.queries = nn.Parameter(_normal(slots, d))
            self.slots = nn.Parameter(_normal(slots, d, scale=0.02)) if config.state_embedding else None
            self.stack = stack or make_stack(config, d)
            self.norm = nn.LayerNorm(d) if config.final_norm else nn.Identity()
        elif config.reads == "last_input":
            self.slots = (
                nn.Parameter(_normal(len(self.names), n * width, scale=0.02)) if config.state_embedding else None
            )
            self.stack = stack or make_stack(config, n * width)
            self.norm = nn.LayerNorm(n * width) if config.final_norm else nn.Identity()
        self.base_a, self.base_b = nn.ParameterDict(), nn.ParameterDict()
        self.map_a, self.map_b = nn.ModuleDict(), nn.ModuleDict()
        for name, (out, inp) in self.shapes.items():
            self.base_b[name] = nn.Parameter(torch.zeros(n, out))
            if config.reads != "last_input":
                self.base_a[name] = nn.Parameter(_normal(n, inp))
            if config.reads_positions:
                self.map_a[name] = _init_linear(MetaAwareLinear(d, inp), (3 * d) ** -0.5)
            if config.synthesize == "both":
                self.map_b[name] = _init_linear(MetaAwareLinear(d, out), 0.0)

    def start(self, batch: int) -> LayerReads:
        """The state before anything is read, for B rows."""
        if not self.config.reads_positions:
            return LayerReads(None, None, None, None)
        slots, d = self.shape
        empty = self.from_input.weight.new_zeros(batch, slots)
        return LayerReads(None, empty - 1e30, empty, empty.new_zeros(batch, slots, d))

    def read(self, reads: LayerReads, taps: Taps, layer: int, valid: Tensor, lengths: Tensor) -> LayerReads:
        """Takes in a chunk of taps (B, T, ...), of which `valid` (B, T) positions belong to the prompt."""
        if self.config.reads == "last_input":
            last = wide(taps.last[layer])
            here = valid.any(1, keepdim=True)  # a row that ended in an earlier chunk keeps what it had there
            return reads._replace(last=last if reads.last is None else torch.where(here, last, reads.last))
        if self.config.reads == "nothing":
            return reads
        assert reads.top is not None and reads.total is not None and reads.value is not None
        if self.config.reads == "last_position":
            u = self.reduce(taps, layer)
            value = u[torch.arange(u.shape[0], device=u.device), (valid.sum(1) - 1).clamp(min=0)]
            here = valid.any(1)
            value = torch.where(here.view(-1, 1, 1), value.to(reads.value.dtype).unsqueeze(1), reads.value)
            return reads._replace(total=torch.where(here.unsqueeze(1), 1.0, reads.total), value=value)
        u, scores = self.score(taps, layer, lengths)
        mask = valid.unsqueeze(1)
        # Before exp: beyond the prompt a score may be anything, and 0 * inf would be the gradient.
        scores = scores.masked_fill(~mask, -1e30)
        top = torch.maximum(reads.top, scores.amax(2)).detach()
        old = torch.exp(reads.top - top)
        weights = torch.exp(scores - top.unsqueeze(2)).masked_fill(~mask, 0.0)
        return LayerReads(
            None,
            top,
            old * reads.total + weights.sum(2),
            old.unsqueeze(2) * reads.value + weights @ u.to(weights.dtype),
        )

    def reduce(self, taps: Taps, layer: int) -> Tensor:
        """u (B, T, d), the reduced input and memory of each position.

        Without gradients the products have the inputs' type: a bf16 backbone's are bf16, as autocast's are in training.
        """
        inputs = taps.inputs[layer]
        narrow = inputs.dtype == torch.bfloat16 and not torch.is_grad_enabled()
        dtype = torch.bfloat16 if narrow else self.from_input.weight.dtype
        u = _product(self.from_input, inputs, dtype)
        if self.config.memory_tap:
            u = u + _product(self.from_memory, taps.memory[layer], dtype)
        return u

    def score(self, taps: Taps, layer: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, T, d) and the queries' scores (B, S, T), before the softmax."""
        u = self.reduce(taps, layer)
        scores = (u @ self.queries.mT).mT.to(self.queries.dtype) * self.queries.shape[1] ** -0.5
        if self.config.log_length:
            grown = torch.log(lengths.to(scores.dtype)) / math.log(self.config.reference_length)
            scores = scores * grown.view(-1, 1, 1)
        return u, scores

    def finish(self, reads: LayerReads, batch: int) -> dict[str, LowRank]:
        """Makes the factors of this layer's projections, fp32 (fp64 in an fp64 model)."""
        n = self.config.rank
        factors: dict[str, LowRank] = {}
        if self.config.reads == "nothing":
            return {
                name: LowRank((a / a.shape[1] ** 0.5).expand(batch, *a.shape), self.config.alpha * self.base_b[name].mT)
                for name, a in self.base_a.items()
            }
        if self.config.reads == "last_input":
            assert reads.last is not None
            h = reads.last.repeat(1, n).unsqueeze(1).expand(-1, len(self.names), -1)
        else:
            assert reads.total is not None and reads.value is not None
            h = reads.value / reads.total.unsqueeze(2)
        if self.slots is not None:
            h = h + self.slots
        h = wide(self.norm(self.stack(h)))
        for index, (name, (_, inp)) in enumerate(self.shapes.items()):
            if self.config.reads == "last_input":
                a = h[:, index].reshape(batch, n, inp)
            else:
                own = h[:, index * n : (index + 1) * n]
                a = (self.base_a[name] + self.map_a[name](own)) / inp**0.5
            b = self.base_b[name].mT
            if self.config.synthesize == "both":
                b = (self.base_b[name] + self.map_b[name](own)).mT
            factors[name] = LowRank(wide(a), self.config.alpha * wide(b))
        return factors


def make_stack(config: ProSGConfig, width: int) -> Stack:
    """Builds the transforming stack for slots of this width."""
    return Stack(width, config.hidden or width, config.blocks)


def _product(linear: nn.Linear, x: Tensor, dtype: torch.dtype) -> Tensor:
    """What a layer gives, its product computed in a type, in the type of its weights."""
    if linear.weight.dtype == dtype:
        y: Tensor = linear(x.to(dtype))
        return y
    bias = None if linear.bias is None else linear.bias.to(dtype)
    return F.linear(x.to(dtype), linear.weight.to(dtype), bias).to(linear.weight.dtype)


def _normal(*shape: int, scale: float = 1.0) -> Tensor:
    """As `scale * torch.randn`; nothing is drawn on "meta", where arithmetic imports torch's compiler, for seconds."""
    values = torch.empty(*shape)
    return values if values.is_meta else scale * values.normal_()


def _init_linear(linear: nn.Linear, std: float) -> nn.Linear:
    if linear.weight.is_meta:  # as in `MetaAwareLinear`: modules are made there only to be counted
        return linear
    nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
