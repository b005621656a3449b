"""The gradient synthesis module: what a prompt left in the network becomes a low-rank update (eq. 13-20).

Symbols (ProSG, arXiv 2311.01981), per time-mixing block:

    x        time-mix input at the prompt's last token           `Taps.last`
    e_*      state embedding, one per projection  (eq. 13-16)    `slots`
    S        transforming stack                   (eq. 18)       `Stack`
    A, B     factors of the update                (eq. 20)       `LowRank.a`, `LowRank.b`
    n        rank of the update                                  `rank`

Two presets of one class, each choice a named option of `ProSGConfig`:

`paper`  x, n copies of it, + e_p -> S -> reshaped to A (n, I); B learned and the same for every prompt.
         What the paper leaves open: S is per layer (`share_stack`), one block of hidden width n E (`blocks`, `hidden`),
         x is taken after ln1, B starts at zero.
`plus`   u = W_x x + W_m m + c over all positions (m: what the recurrence returned), of a bottleneck width d;
         4 n learned queries read u by softmax attention, scores q.u / sqrt(d) * log T / log T0 (T the prompt's length);
         + e -> S (width d, shared by the layer's slots) -> LayerNorm, without which dW is quadratic in the size of u;
         per projection A = (A0 + L_A h + c_A) / sqrt(I), B = B0 + L_B h + c_B, one rank-1 term per read.
         With `reads` "last_position" u of the last token is every read: no queries.
`static` nothing is read: A and B are learned. The control that tells an update of the prompt from a mere bias.

In each B is zero at the start, so that dW = 0 and the model is bit-equal to its backbone.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from prosg.backbones.base import Taps
from prosg.backbones.native import Linear
from prosg.core.tensors import wide
from prosg.core.update import LowRank, Site, Update
from prosg.model.config import ProSGConfig

__all__ = ["LayerReads", "Reads", "Synthesizer"]

LARGE = 100_000_000
"""Parameters of a backbone from which on the module's are kept under a tenth of them. A demo's model needs more."""


class LayerReads(NamedTuple):
    """What has been read in one layer so far: the last input, and a softmax attention under way."""

    last: Tensor | None
    """(B, E)"""
    top: Tensor | None
    """(B, S) running maximum of the scores; not differentiated."""
    total: Tensor | None
    """(B, S) sum of exp(score - top)."""
    value: Tensor | None
    """(B, S, d) sum of exp(score - top) u."""


class Reads(NamedTuple):
    """Accumulators over a prompt that is read chunk by chunk; their size does not depend on its length."""

    lengths: Tensor
    """(B,) the whole prompt's length."""
    layers: tuple[LayerReads, ...]


class Stack(nn.Module):
    """Transforming stack S (eq. 18): blocks h + LN(L2 relu(L1 h)), shape kept."""

    def __init__(self, width: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.blocks: Sequence[nn.Sequential] = nn.ModuleList(  # type: ignore[assignment]
            nn.Sequential(Linear(width, hidden), nn.ReLU(), Linear(hidden, width), nn.LayerNorm(width))
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
    """One time-mixing block's part: read, embed, transform, give the factors of its projections."""

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
            self.from_input = _init_linear(Linear(width, d), width**-0.5)
            if config.memory_tap:
                self.from_memory = _init_linear(Linear(memory, d, bias=False), (3 * width) ** -0.5)
            self.shape = (slots, d)
            if config.reads == "all_positions":
                self.queries = nn.Parameter(torch.randn(slots, d))
            self.slots = nn.Parameter(0.02 * torch.randn(slots, d)) if config.state_embedding else None
            self.stack = stack or make_stack(config, d)
            self.norm = nn.LayerNorm(d) if config.final_norm else nn.Identity()
        elif config.reads == "last_input":
            self.slots = (
                nn.Parameter(0.02 * torch.randn(len(self.names), n * width)) if config.state_embedding else None
            )
            self.stack = stack or make_stack(config, n * width)
            self.norm = nn.LayerNorm(n * width) if config.final_norm else nn.Identity()
        self.base_a, self.base_b = nn.ParameterDict(), nn.ParameterDict()
        self.map_a, self.map_b = nn.ModuleDict(), nn.ModuleDict()
        for name, (out, inp) in self.shapes.items():
            self.base_b[name] = nn.Parameter(torch.zeros(n, out))
            if config.reads != "last_input":
                self.base_a[name] = nn.Parameter(torch.randn(n, inp))
            if config.reads_positions:
                self.map_a[name] = _init_linear(Linear(d, inp), (3 * d) ** -0.5)
            if config.synthesize == "both":
                self.map_b[name] = _init_linear(Linear(d, out), 0.0)

    def start(self, batch: int) -> LayerReads:
        """Nothing read yet."""
        if not self.config.reads_positions:
            return LayerReads(None, None, None, None)
        slots, d = self.shape
        empty = self.from_input.weight.new_zeros(batch, slots)
        return LayerReads(None, empty - 1e30, empty, empty.new_zeros(batch, slots, d))

    def read(self, reads: LayerReads, taps: Taps, layer: int, valid: Tensor, lengths: Tensor) -> LayerReads:
        """Take in a chunk (B, T, ...) of which `valid` (B, T) positions belong to the prompt."""
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
        """u (B, T, d): what is read at each position."""
        dtype = self.from_input.weight.dtype
        u: Tensor = self.from_input(taps.inputs[layer].to(dtype))
        if self.config.memory_tap:
            u = u + self.from_memory(taps.memory[layer].to(dtype))
        return u

    def score(self, taps: Taps, layer: int, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """u (B, T, d) and the queries' scores of it (B, S, T), before the softmax."""
        u = self.reduce(taps, layer)
        scores = (u @ self.queries.mT).mT.to(self.queries.dtype) * self.queries.shape[1] ** -0.5
        if self.config.log_length:
            grown = torch.log(lengths.to(scores.dtype)) / math.log(self.config.reference_length)
            scores = scores * grown.view(-1, 1, 1)
        return u, scores

    def finish(self, reads: LayerReads, batch: int) -> dict[str, LowRank]:
        """The factors of this layer's projections, fp32 (fp64 in an fp64 model)."""
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


class Synthesizer(nn.Module):
    """Reads a prompt's taps and gives its update; see the module's glossary.

    Raises ValueError where a preset cannot serve a backbone's shapes, naming the site.
    """

    def __init__(
        self,
        config: ProSGConfig,
        sites: Mapping[Site, tuple[int, int]],
        tap_widths: tuple[tuple[int, int], ...],
        generator_seed: int | None = None,
        backbone_size: int = 0,
    ) -> None:
        """`sites` and `tap_widths` as a backbone's; `generator_seed` fixes the initial weights.

        backbone_size: the backbone's parameters, by which a bottleneck that is left open is chosen; 0: by its width.
        """
        super().__init__()
        names = tuple(dict.fromkeys(site.name for site in sites))
        is_open, config = config.bottleneck == 0, config.resolve(tap_widths[0][0], names)
        if missing := [name for name in config.target_modules if name not in names]:
            raise ValueError(f"target_modules {missing} not in this backbone; it has {sorted(names)}")
        if is_open and config.reads_positions and backbone_size >= LARGE:
            config = _narrowed(config, sites, tap_widths, backbone_size // 10)
        self.sites = {site: shape for site, shape in sites.items() if site.name in config.target_modules}
        if config.reads == "last_input":
            for site, (_, inp) in self.sites.items():
                if inp != tap_widths[site.layer][0]:
                    raise ValueError(
                        f"site {site} has {inp} inputs, but the last token's input has width "
                        f"{tap_widths[site.layer][0]}: module.reads 'last_input' needs them equal; use preset 'plus'"
                    )
        self.config = config
        with torch.random.fork_rng(devices=[], enabled=generator_seed is not None):
            if generator_seed is not None:
                torch.manual_seed(generator_seed)
            shared = None
            if config.share_stack and config.reads != "nothing":
                d = config.bottleneck if config.reads_positions else config.rank * tap_widths[0][0]
                shared = make_stack(config, d)
            self.layers: Sequence[LayerSynthesizer] = nn.ModuleList(  # type: ignore[assignment]
                LayerSynthesizer(
                    config, {s.name: shape for s, shape in self.sites.items() if s.layer == i}, widths, shared
                )
                for i, widths in enumerate(tap_widths)
            )

    @property
    def taps(self) -> tuple[str, ...]:
        """What it wants to be shown."""
        if self.config.reads == "last_input":
            return ("last",)
        if self.config.reads == "nothing":
            return ()
        return ("inputs", "memory") if self.config.memory_tap else ("inputs",)

    def init(self, lengths: Int[Tensor, " B"]) -> Reads:
        """Empty accumulators for prompts of these whole lengths."""
        return Reads(lengths, tuple(layer.start(lengths.shape[0]) for layer in self.layers))

    def read(self, reads: Reads, taps: Taps, valid: Bool[Tensor, "B T"]) -> Reads:
        """Take in one chunk; as often as the prompt has chunks."""
        layers = (
            layer.read(seen, taps, i, valid, reads.lengths)
            for i, (layer, seen) in enumerate(zip(self.layers, reads.layers, strict=True))
        )
        return reads._replace(layers=tuple(layers))

    def finish(self, reads: Reads) -> Update:
        """The update: per site A (B, r, I), and B (O, r) or (B, O, r)."""
        batch = reads.lengths.shape[0]
        return {
            Site(i, name): delta
            for i, (layer, seen) in enumerate(zip(self.layers, reads.layers, strict=True))
            for name, delta in layer.finish(seen, batch).items()
        }

    def attention(self, taps: Taps, valid: Bool[Tensor, "B T"]) -> tuple[dict[Site, Tensor], ...]:
        """What `read` only sums up: per layer and site each read's weights over the positions, (B, n, T).

        For looking at them, with the prompt in one chunk. Raises ValueError for a module that does not read so.
        """
        if self.config.reads != "all_positions":
            raise ValueError(f"module.reads is {self.config.reads!r}: this module attends to nothing")
        found = []
        for i, layer in enumerate(self.layers):
            _, scores = layer.score(taps, i, valid.sum(1))
            weights = torch.softmax(scores.masked_fill(~valid.unsqueeze(1), -torch.inf), 2)
            parts = weights.split(self.config.rank, 1)
            found.append({Site(i, name): part for name, part in zip(layer.names, parts, strict=True)})
        return tuple(found)

    def forward(self, taps: Taps, valid: Bool[Tensor, "B T"]) -> Update:
        """The three in one, for a prompt in one chunk."""
        return self.finish(self.read(self.init(valid.sum(1)), taps, valid))


def _narrowed(
    config: ProSGConfig, sites: Mapping[Site, tuple[int, int]], tap_widths: tuple[tuple[int, int], ...], limit: int
) -> ProSGConfig:
    """With the largest bottleneck up to the one it has, in steps of 8, whose module has at most `limit` parameters.

    With 8 where no width has so few: the rank alone is then too large for that.
    """

    def count(bottleneck: int) -> int:
        return _parameters(dataclasses.replace(config, bottleneck=bottleneck), sites, tap_widths)

    if count(config.bottleneck) <= limit:
        return config
    widths = range(8, config.bottleneck, 8)
    fitting = bisect.bisect_right(widths, limit, key=count)
    return dataclasses.replace(config, bottleneck=widths[max(fitting - 1, 0)])


def _parameters(
    config: ProSGConfig, sites: Mapping[Site, tuple[int, int]], tap_widths: tuple[tuple[int, int], ...]
) -> int:
    """Parameters of a module that reads by attention. Making large ones takes seconds, on the meta device too."""
    d, n = config.bottleneck, config.rank
    hidden = config.hidden or d
    stack = config.blocks * (2 * d * hidden + hidden + 3 * d)
    total = stack * (1 if config.share_stack else len(tap_widths))
    for width, memory in tap_widths:
        total += d * (width + 1 + memory * config.memory_tap + 2 * config.final_norm)
    for site, (out, inp) in sites.items():
        if site.name in config.target_modules:
            total += n * (out + inp) + n * d * ((config.reads == "all_positions") + config.state_embedding)
            total += (d + 1) * (inp + out * (config.synthesize == "both"))
    return total


def make_stack(config: ProSGConfig, width: int) -> Stack:
    """The transforming stack for slots of this width."""
    return Stack(width, config.hidden or width, config.blocks)


def _init_linear(linear: nn.Linear, std: float) -> nn.Linear:
    if linear.weight.is_meta:  # as in `Linear`: modules are made there only to be counted
        return linear
    nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
