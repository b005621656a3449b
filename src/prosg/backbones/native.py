"""The forward pass that the native backbones share: embedding, blocks, norm and head.

    tokens -> embed -> L x block -> ln_out -> head -> logits

A subclass defines how tokens become the residual stream, what a block does, and what its state is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prosg.backbones.base import DeferredLogits, KeptTaps, Logits, Output, check_call_shape, check_taps, update_mask
from prosg.backbones.fused import BlockTable, UnsuitableError, Weights, weights_of
from prosg.backbones.layers import MetaAwareEmbedding, MetaAwareLinear
from prosg.backbones.layouts import Layout
from prosg.backbones.step_buffers import BlocksOutput
from prosg.core.state import Anchor, State
from prosg.core.tensors import keeping_wide, last_valid
from prosg.core.update import LowRank, Site, Update, check_update
from prosg.ops.block import Addresses, can_run_blocks
from prosg.ops.linear import LINEAR
from prosg.ops.operation import Operation
from prosg.utils.values import check_fields

__all__ = [
    "Block",
    "BlockContext",
    "BlockOutput",
    "NativeBackbone",
    "NativeConfig",
    "check_positive",
]


@runtime_checkable
class NativeConfig(Protocol):
    """The sizes that every native backbone has; its config is a frozen dataclass with these and its own."""

    @property
    def model_type(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...


def check_positive(config: NativeConfig, *names: str) -> None:
    """Raises ValueError for a field of the wrong type, or one of these names that is below 1."""
    check_fields(config, f"{type(config).__name__}.")
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{type(config).__name__}.{name} is {getattr(config, name)}, must be at least 1")


class BlockContext(NamedTuple):
    """The arguments of a call beside its tokens; all but `pull` are the same for all blocks."""

    active: Tensor | None
    """(B, T, 1) 1 where the update acts, 0 elsewhere; None: everywhere"""
    lengths: Tensor | None
    """(B,) valid tokens of each row; None: all"""
    kernel: Callable[..., tuple[Tensor, Any]]
    """the selected kernel of the backbone's `operation`"""
    pull: Any = None
    """the block's layer of the anchor; None without an anchor"""


class BlockOutput(NamedTuple):
    """What a block returns."""

    stream: Any
    """the residual stream after the block"""
    layer: Any
    """its layer of the state"""
    inputs: Tensor
    """(B, T, E) the time-mixing block's input, after the norm: `Taps.inputs`"""
    memory: Tensor
    """(B, T, I) what the recurrence returned, before gate and output projection: `Taps.memory`"""


class Block(nn.Module):
    """A layer: time-mixing, then channel-mixing, both residual.

    The residual stream is x (B, T, E), or a NamedTuple where more than x crosses layers (RWKV-7). `layer` is the
    layer's NamedTuple in the state. `deltas` are the update's weight changes of this layer, by the sites' names.
    """

    att: nn.Module
    """The time-mixing block; its projections are the sites."""

    def forward(self, stream: Any, layer: Any, deltas: Mapping[str, LowRank], context: BlockContext) -> BlockOutput:
        raise NotImplementedError


class NativeBackbone(nn.Module):
    """A recurrent language model as a function of (tokens, state, update); see `Backbone`.

    Args:
        config: Its sizes.
        blocks: Its layers.
        kernel: Which kernel of `operation` runs the recurrence; "auto" selects the fastest that can run.
    """

    site_names: ClassVar[tuple[str, ...]]
    """Projections of `Block.att` that an update may act on; the last is the output projection."""
    operation: ClassVar[Operation[Any]]
    """The recurrence."""
    layout: ClassVar[Layout]
    """How files name its tensors, and which of them are never narrowed."""
    table: ClassVar[BlockTable | None] = None
    """What a compiled library reads of a block, where there is one that runs a step's blocks (`run_step`)."""
    perturbations: ClassVar[tuple[str, ...]] = ("wipe", "swap", "load", "age", "start")

    continues = True
    memory_grows = False
    checkpoint_every = 0

    def __init__(self, config: NativeConfig, blocks: Sequence[Block], kernel: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.emb = MetaAwareEmbedding(config.vocab_size, config.hidden_size)
        # To a type checker a ModuleList is a sequence of bare Modules.
        self.blocks: Sequence[Any] = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.ln_out = nn.LayerNorm(config.hidden_size)
        self.head = MetaAwareLinear(config.hidden_size, config.vocab_size, bias=False)
        self.kernel = kernel

    def embed(self, tokens: Tensor) -> Any:
        """Returns the residual stream of tokens (B, T) before the first block."""
        raise NotImplementedError

    def hidden(self, stream: Any) -> Tensor:
        """Returns x (B, T, E) of a residual stream."""
        x: Tensor = stream
        return x

    def run_step(
        self, x: Tensor, state: State, weights: Weights, factors: Addresses | None, anchor: Anchor | None, tapped: bool
    ) -> BlocksOutput:
        """Runs all blocks for one token of each row, in one call.

        Args:
            x: The residual stream (B, 1, E) before the first block.
            state: The state before the token.
            weights: Where the blocks' weights lie.
            factors: Where the update's factors lie (`Factors`); None without an update.
            anchor: Pulls the memory.
            tapped: Whether taps are wanted.

        Raises:
            UnsuitableError: where something does not fit.
        """
        raise UnsuitableError

    def init_state(self, batch: int) -> State:
        """Returns the state of `batch` rows before their first token."""
        raise NotImplementedError

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """Returns a state whose memory has decayed as if more text had passed; see `Backbone`."""
        raise NotImplementedError

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """Returns a state whose memory is weakened and mixed with that of another text; see `Backbone`."""
        raise NotImplementedError

    @property
    def anchor_units(self) -> tuple[int, ...]:
        """For each layer the number of units of its memory that an anchor pulls; see `Backbone`."""
        raise NotImplementedError

    @property
    def log_decay(self) -> tuple[Tensor, ...] | None:
        """What a token leaves of the memory; see `Backbone`."""
        return None

    def make_anchor(self, target: State, log_keep: Sequence[Tensor], share: Sequence[Tensor]) -> Anchor:
        """Returns what pulls a memory back to that of `target`; see `Backbone`."""
        raise NotImplementedError

    def anchor(self, state: State, anchor: Anchor) -> State:
        """Returns a state after one pull; see `Backbone`."""
        raise NotImplementedError

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws initial weights for training from scratch."""
        raise NotImplementedError

    def enable_checkpointing(self, every: int) -> None:
        """Recomputes the activations of every `every`-th block in the backward pass; 0 keeps all."""
        self.checkpoint_every = every

    @property
    def sites(self) -> dict[Site, tuple[int, int]]:
        """The projections of all time-mixing blocks that an update may act on, with their shapes (O, I)."""
        return {
            Site(i, name): (linear.out_features, linear.in_features)
            for i, block in enumerate(self.blocks)
            for name, linear in ((name, getattr(block.att, name)) for name in self.site_names)
        }

    def site_path(self, site: Site) -> str:
        """Returns the path of a site's module, for `get_submodule`."""
        return f"blocks.{site.layer}.att.{site.name}"

    @property
    def tap_widths(self) -> tuple[tuple[int, int], ...]:
        """For each layer (E, I of the output projection)."""
        outputs = (getattr(block.att, self.site_names[-1]) for block in self.blocks)
        return tuple((output.out_features, output.in_features) for output in outputs)

    @property
    def kernel_in_use(self) -> str:
        """Which kernels run the recurrence and products of few rows. Raises ValueError where a chosen one cannot."""
        device = self.emb.weight.device
        products = LINEAR.describe(device, self.emb.weight.dtype)
        if self.kernel == "auto":
            return f"{self.operation.describe(device, self.state_dtype)}; {products}"
        self.operation.select(self.kernel, device, self.state_dtype)
        return f"{self.operation.name}: {self.kernel} (chosen); {products}"

    @property
    def state_dtype(self) -> torch.dtype:
        """The type of the recurrent state: fp32, or fp64 in an fp64 model."""
        return torch.promote_types(self.emb.weight.dtype, torch.float32)

    def full(self, *shape: int, value: float = 0.0) -> Tensor:
        """Returns a constant tensor for an initial state."""
        return torch.full(shape, value, dtype=self.state_dtype, device=self.emb.weight.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Converts the weights, for `to`, `half`, `bfloat16` and the like, as loading in a type does."""
        named = chain(self.named_parameters(), self.named_buffers())
        kept = [tensor for name, tensor in named if self.layout.keep_wide.search(name)]
        return super()._apply(keeping_wide(fn, kept), recurse)  # type: ignore[no-untyped-call]

    def context(self, active: Tensor | None = None, lengths: Tensor | None = None) -> BlockContext:
        """Returns what a call passes to its blocks. Raises ValueError where the chosen kernel cannot run."""
        return BlockContext(
            active, lengths, self.operation.select(self.kernel, self.emb.weight.device, self.state_dtype)
        )

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        update: Update | None = None,
        update_from: Tensor | None = None,
        anchor: Anchor | None = None,
        lengths: Tensor | None = None,
        logits: Logits = "all",
        taps: Collection[str] = (),
        keep_state: bool = True,
    ) -> Output:
        """Reads tokens (B, T) on from a state; see `Backbone`."""
        check_call_shape(tokens, lengths)
        state = self.init_state(len(tokens)) if state is None else state
        check_taps(taps)
        kept = KeptTaps(taps, lengths)
        stream = self.embed(tokens)
        after: State | None = None
        x = self.hidden(stream)
        if self.kernel == "auto" and update_from is None and lengths is None and can_run_blocks(x, self.state_dtype):
            with suppress(UnsuitableError):
                x, after, inputs, memories = self._run_at_once(x, state, update, anchor, bool(taps))
                if inputs is not None and memories is not None:
                    for seen, memory in zip(inputs, memories, strict=True):
                        kept.add(seen, memory)
        if after is None:
            active = update_mask(tokens, update_from)
            context = self.context(None if active is None else active.to(x.dtype), lengths)
            x, after = self._run_in_turn(stream, state, update, anchor, context, kept)
        scores, deferred = None, None
        if logits == "all":
            scores = self.head(self.ln_out(x))
        elif logits == "deferred":
            deferred = DeferredLogits(self.ln_out(x), self.head)
        elif logits == "last":
            scores = self.head(self.ln_out(last_valid(x, lengths)))
        return Output(scores, after, kept.taps(), deferred)

    def _run_at_once(
        self, x: Tensor, state: State, update: Update | None, anchor: Anchor | None, tapped: bool
    ) -> BlocksOutput:
        """All blocks for one token of each row in one call. Raises UnsuitableError where something does not fit."""
        if self.table is None:
            raise UnsuitableError
        weights = weights_of(self, self.table, x.dtype)
        if len(state) != weights.blocks or not x.is_contiguous():
            raise UnsuitableError
        factors: Addresses | None = None
        if update:
            kept = weights.kept_factors(update, len(x))
            if kept is None:
                check_update(update, self.sites, len(x))
                kept = weights.find_factors(update)
            factors = kept.addresses
        return self.run_step(x, state, weights, factors, anchor, tapped)

    def _run_in_turn(
        self,
        stream: Any,
        state: State,
        update: Update | None,
        anchor: Anchor | None,
        context: BlockContext,
        kept: KeptTaps,
    ) -> tuple[Tensor, State]:
        """Block by block: the residual stream after the last (B, T, E), and the state."""
        deltas: list[dict[str, LowRank]] = [{} for _ in self.blocks]
        if update is not None:
            check_update(update, self.sites, len(self.hidden(stream)))
            for site, delta in update.items():
                deltas[site.layer][site.name] = delta
        layers = []
        every = self.checkpoint_every if torch.is_grad_enabled() else 0
        for index, (block, layer, layer_deltas) in enumerate(zip(self.blocks, state, deltas, strict=True)):
            pulled = context if anchor is None else context._replace(pull=anchor[index])
            arguments = (stream, layer, layer_deltas, pulled)
            if every and index % every == 0:
                # Not reentrant: that form gives no gradient to tensors inside a mapping, as the update's are.
                output = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                output = block(*arguments)
            stream, layer, seen, memory = output
            layers.append(layer)
            kept.add(seen, memory)
        return self.hidden(stream), tuple(layers)
