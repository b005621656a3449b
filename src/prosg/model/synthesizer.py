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
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from prosg.backbones.base import Taps
from prosg.core.update import Site, Update
from prosg.model.base_synthesizer import BaseSynthesizer
from prosg.model.config import ProSGConfig
from prosg.model.familiarity import Familiarity
from prosg.model.layer_synthesizer import LayerReads, LayerSynthesizer, make_stack

__all__ = ["Reads", "Synthesizer"]

LARGE = 100_000_000
"""Parameters of a backbone from which on the module's are kept under a tenth of them. A demo's model needs more."""


class Reads(NamedTuple):
    """What has been read of a prompt, chunk by chunk; its size does not depend on the prompt's length."""

    lengths: Tensor
    """(B,) the whole prompt's length."""
    layers: tuple[LayerReads, ...]
    inputs: Tensor | None = None
    """(B, D) sum of the inputs by which prompts are told to be known; None where all are"""


class Synthesizer(BaseSynthesizer):
    """The synthesizer of the presets; the module's docstring has the equations."""

    def __init__(
        self,
        config: ProSGConfig,
        sites: Mapping[Site, tuple[int, int]],
        tap_widths: tuple[tuple[int, int], ...],
        generator_seed: int | None = None,
        backbone_size: int = 0,
    ) -> None:
        """Builds the module for a backbone.

        Args:
            config: Its options.
            sites: The backbone's projections, with their shapes (O, I).
            tap_widths: Per layer the widths of the backbone's taps: (inputs and last, memory).
            generator_seed: Fixes the initial weights.
            backbone_size: The backbone's parameters, by which an open bottleneck is chosen; 0: by its width.

        Raises:
            ValueError: where a preset does not fit a backbone's shapes, naming the site.
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
        self.input_widths = tuple(width for width, _ in tap_widths)
        self.familiarity: Familiarity | None = None
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
    def is_selective(self) -> bool:
        return self.familiarity is not None

    @property
    def window(self) -> int:
        return self.config.window

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the backbone's taps that it reads."""
        if self.config.reads == "last_input":
            return ("last",)
        if self.config.reads == "nothing":
            return ()
        return ("inputs", "memory") if self.config.memory_tap else ("inputs",)

    def init(self, lengths: Int[Tensor, " B"]) -> Reads:
        """Starts reading prompts of these whole lengths (B,)."""
        layers = tuple(layer.start(lengths.shape[0]) for layer in self.layers)
        known = self.familiarity
        return Reads(lengths, layers, None if known is None else known.mean.new_zeros(len(lengths), len(known.mean)))

    def read(self, reads: Reads, taps: Taps, valid: Bool[Tensor, "B T"]) -> Reads:
        """Takes in the taps of one chunk, of which `valid` (B, T) positions belong to the prompt."""
        layers = (
            layer.read(so_far, taps, i, valid, reads.lengths)
            for i, (layer, so_far) in enumerate(zip(self.layers, reads.layers, strict=True))
        )
        inputs = reads.inputs
        if self.familiarity is not None and inputs is not None:
            inputs = inputs + self.familiarity.sums(taps, valid)
        return reads._replace(layers=tuple(layers), inputs=inputs)

    def finish(self, reads: Reads) -> Update:
        """Makes the update: per site A (B, r, I), and B (O, r) or (B, O, r) (eq. 20)."""
        batch = reads.lengths.shape[0]
        return {
            Site(i, name): delta
            for i, (layer, so_far) in enumerate(zip(self.layers, reads.layers, strict=True))
            for name, delta in layer.finish(so_far, batch).items()
        }

    def knows(self, reads: Reads) -> Bool[Tensor, " B"] | None:
        if self.familiarity is None or reads.inputs is None:
            return None
        return self.familiarity.knows(reads.inputs / reads.lengths.unsqueeze(1))

    def attention(self, taps: Taps, valid: Bool[Tensor, "B T"]) -> tuple[dict[Site, Tensor], ...]:
        """Attention weights over the positions of a prompt in one chunk, which `read` only sums up.

        Returns:
            Per layer and site (B, n, T); each read's weights sum to 1 over a row's valid positions.

        Raises:
            ValueError: for a module that does not attend.
        """
        if self.config.reads != "all_positions":
            raise ValueError(f"module.reads is {self.config.reads!r}: this module attends to nothing")
        layers = []
        for i, layer in enumerate(self.layers):
            _, scores = layer.score(taps, i, valid.sum(1))
            weights = torch.softmax(scores.masked_fill(~valid.unsqueeze(1), -torch.inf), 2)
            parts = weights.split(self.config.rank, 1)
            layers.append({Site(i, name): part for name, part in zip(layer.names, parts, strict=True)})
        return tuple(layers)


def _narrowed(
    config: ProSGConfig, sites: Mapping[Site, tuple[int, int]], tap_widths: tuple[tuple[int, int], ...], limit: int
) -> ProSGConfig:
    """Narrows the bottleneck, in steps of 8, until the module has at most `limit` parameters; to 8 at the least."""

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
    """Counts the parameters of a module with a bottleneck; building large ones takes seconds, even on "meta"."""
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
