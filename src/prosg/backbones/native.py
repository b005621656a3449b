"""What the native backbones share: one forward over embedding, blocks, norm and head.

    tokens -> embed -> L x block -> ln_out -> head -> logits

A backbone of its own says how tokens become the residual stream, what a block does, and what its state is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prosg.backbones.base import TAPS, Logits, Output, Taps, last_valid
from prosg.core.state import State
from prosg.core.update import LowRank, Site, Update, check_update

__all__ = ["Block", "Call", "Embedding", "Linear", "Mixed", "Native", "add_memories"]


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


class Call(NamedTuple):
    """What one call of a backbone tells every block."""

    active: Tensor | None
    """(B, T, 1) 1 where the update acts; None: everywhere"""
    lengths: Tensor | None
    """(B,) valid tokens of each row; None: all"""
    kernel: Any
    """the recurrence's implementation"""


class Mixed(NamedTuple):
    """What a block returns."""

    stream: Any
    """the residual stream: x (B, T, E), with what else crosses layers"""
    layer: Any
    """its part of the state"""
    seen: Tensor
    """(B, T, E) the time-mix input, after the norm"""
    memory: Tensor
    """(B, T, I) what the recurrence returned, before gate and output projection"""


class Block(nn.Module):
    """A layer: time-mixing, then channel-mixing, both residual."""

    att: nn.Module
    """The time-mixing block; its projections are the sites."""

    def forward(self, stream: Any, layer: Any, deltas: Mapping[str, LowRank], call: Call) -> Mixed:
        raise NotImplementedError


class Native(nn.Module):
    """A backbone as a function of (tokens, state, update); see `Backbone`."""

    site_names: ClassVar[tuple[str, ...]]
    """Projections of `Block.att` that an update may act on; the last is the output projection."""
    kernels: ClassVar[Any]
    """The module with the recurrence's implementations: `kernel` and `describe`."""

    continues = True
    checkpoint_every = 0
    """Blocks from one whose inside is computed again in the backward pass to the next one; 0: none is."""
    perturbations: ClassVar[tuple[str, ...]] = ("wipe", "swap", "load", "age")

    def __init__(self, config: Any, blocks: Sequence[Block], kernel: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.emb = Embedding(config.vocab_size, config.hidden_size)
        # Typed as what it holds: a ModuleList is a sequence of bare Modules to a type checker.
        self.blocks: Sequence[Any] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.ln_out = nn.LayerNorm(config.hidden_size)
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.kernel = kernel

    def enable_checkpointing(self, every: int) -> None:
        """Recomputes the inside of every `every`-th block in the backward pass; 0 keeps all activations."""
        self.checkpoint_every = every

    def embed(self, tokens: Tensor) -> Any:
        """(B, T) -> the residual stream before the first block."""
        raise NotImplementedError

    def hidden(self, stream: Any) -> Tensor:
        """The residual stream's x (B, T, E)."""
        x: Tensor = stream
        return x

    def init_state(self, batch: int) -> State:
        """The state before the first token."""
        raise NotImplementedError

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialise for training from scratch."""
        raise NotImplementedError

    @property
    def sites(self) -> dict[Site, tuple[int, int]]:
        """The projections of every time-mixing block, with their shapes (O, I)."""
        return {
            Site(i, name): (linear.out_features, linear.in_features)
            for i, block in enumerate(self.blocks)
            for name, linear in ((name, getattr(block.att, name)) for name in self.site_names)
        }

    @property
    def tap_widths(self) -> tuple[tuple[int, int], ...]:
        """(E, I of the output projection) per layer."""
        outputs = (getattr(block.att, self.site_names[-1]) for block in self.blocks)
        return tuple((output.out_features, output.in_features) for output in outputs)

    @property
    def kernel_in_use(self) -> str:
        """Which implementation of the recurrence runs here, and why."""
        name = self.kernels.__name__.rpartition(".")[2]
        if self.kernel == "auto":
            return str(self.kernels.describe(self.emb.weight.device, self.state_dtype))
        self.kernels.kernel(self.kernel, self.emb.weight.device, self.state_dtype)  # raises if there is none
        return f"{name}: {self.kernel} (chosen)"

    @property
    def state_dtype(self) -> torch.dtype:
        """fp32, or fp64 in an fp64 model."""
        return torch.promote_types(self.emb.weight.dtype, torch.float32)

    def empty(self, *shape: int, value: float = 0.0) -> Tensor:
        """A leaf of an initial state."""
        return torch.full(shape, value, dtype=self.state_dtype, device=self.emb.weight.device)

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
        keep_state: bool = True,
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

        stream = self.embed(tokens)
        active = None
        if update_from is not None:
            position = torch.arange(time, device=tokens.device)
            active = (position >= update_from.unsqueeze(1)).unsqueeze(2).to(self.hidden(stream).dtype)
        call = Call(active, lengths, self.kernels.kernel(self.kernel, tokens.device, self.state_dtype))
        layers, last, inputs, memories = [], [], [], []
        every = self.checkpoint_every if torch.is_grad_enabled() else 0
        for index, (block, layer, delta) in enumerate(zip(self.blocks, state, deltas, strict=True)):
            if every and index % every == 0:
                # Not reentrant: that form gives no gradient to tensors inside a mapping, as the update's are.
                mixed = checkpoint(block, stream, layer, delta, call, use_reentrant=False, preserve_rng_state=False)
            else:
                mixed = block(stream, layer, delta, call)
            stream, layer, seen, memory = mixed
            layers.append(layer)
            if "last" in taps:
                last.append(last_valid(seen, seen[:, 0], lengths))
            if "inputs" in taps:
                inputs.append(seen)
            if "memory" in taps:
                memories.append(memory)
        x, out = self.hidden(stream), None
        if logits == "all":
            out = self.head(self.ln_out(x))
        elif logits == "last":
            out = self.head(self.ln_out(last_valid(x, x[:, 0], lengths)))
        return Output(out, tuple(layers), Taps(tuple(last), tuple(inputs), tuple(memories)))


def add_memories(state: State, other: State, keep: Tensor, weight: Tensor) -> State:
    """Per layer S <- keep S + S_other, where weight is not 0; keep, weight (B,). For memories that are plain sums.

    A state's own size is its weight: nothing is normalised.
    """
    return tuple(
        layer._replace(
            memory=_per_row(keep, layer.memory) * layer.memory + _per_row(weight != 0, layer.memory) * strange.memory
        )
        for layer, strange in zip(state, other, strict=True)
    )


def _per_row(x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
