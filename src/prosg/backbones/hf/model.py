"""A causal language model of transformers as a backbone.

Nothing of the model is rewritten; `calls` adds the update to the outputs of its projections, which `sites` finds. It
differs from the native backbones where the models' own code does:

- Types of attention alone and those of Gated DeltaNet get a cache of this package (`continues`): calls read on as those
  of native backbones do, in rows of any length, with gradients.
- All others read on from a state token by token and without gradients: in one call several types give wrong results
  silently, others raise in the backward pass. So a prompt is read in one call, and training reads prompt and answer in
  one call, in which the update acts from the prompt's end (`update_from`). Rows of different lengths are read in groups
  of equal length where their states are wanted: masks are not exact for all types. Without a state they are read at
  once: all of these models are causal.
- A memory can be wiped or swapped in training, not aged; only that of Gated DeltaNet, whose recurrence is this
  package's, can be loaded.
- The model is never in training mode: with dropout an encoded prompt would be another one in training than in use.
- `Taps.memory` is the input of a layer's last site, after the gate.
- Layers without a site do not count: `Site.layer` numbers the others from 0, `layer_names` are their paths.

`docs/backbones.md` has a table of what each type can do, and which test shows it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prosg.backbones.base import DeferredLogits, Logits, Output, Taps, check_call_shape, check_taps, update_mask
from prosg.backbones.hf.anchors import anchor_layers, anchor_refusal, layer_units, pull_layers
from prosg.backbones.hf.cache import CACHES, ModelCache, TransformersModel
from prosg.backbones.hf.calls import CallOptions, CallResult, HookedModel, find_head
from prosg.backbones.hf.continuing import ATTENTION_TYPES, ContinuingCache, load_layers
from prosg.backbones.hf.kernels import use_kernel
from prosg.backbones.hf.sites import HF_SITES, find_sites, projection_shape
from prosg.backbones.hf.trial import reading_refusal
from prosg.backbones.hf.windows import attention_window
from prosg.core.state import Anchor, State
from prosg.core.tensors import last_valid
from prosg.core.update import Site, Update, check_update

__all__ = ["HFBackbone"]


class HFBackbone(nn.Module):
    """A causal language model of transformers as a function of (tokens, state, update); see `Backbone`.

    Args:
        model: The model.
        names: The projections that updates act on instead of those of `HF_SITES`: ends of their modules' paths, as
            "out_proj" or "attn.c_proj", with dots or underscores between the parts.
        kernel: What runs the recurrence, one of `kernel_names`.
        sliding_window: The window that `model` was loaded with in the place of its own (`load_hf`), which adapters
            remember; 0 for a model that is as its files say.

    Attributes:
        continues: Whether several tokens are read on from a state in one call, with gradients through it.
        perturbations: What training may do to the memory.
        window: Tokens that attention sees at most, which bounds the state; 0 where it sees the whole text.

    Raises:
        ValueError: for names that fit no projection, a model whose cache cannot become a state, and a kernel that this
            type does not have.
    """

    checkpoint_every = 0
    memory_grows = False

    def __init__(
        self, model: TransformersModel, names: Sequence[str] = (), kernel: str = "auto", sliding_window: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.model_type: str = model.config.model_type
        self.sliding_window, self.window = sliding_window, attention_window(model.config)
        self._kernel = use_kernel(model, kernel)
        self.continues = self._kernel.continues or self.model_type in ATTENTION_TYPES
        possible = {
            "wipe": True,
            "swap": True,
            "load": self._kernel.continues,
            # A bank of states of attention over the whole text would grow with every text that they read on.
            "start": self._kernel.continues or (self.continues and self.window > 0),
        }
        self.perturbations = tuple(kind for kind, can in possible.items() if can)
        cache = ContinuingCache if self.continues else CACHES.get(self.model_type, ModelCache)
        if reason := cache.unsupported(model):
            raise ValueError(f"{self.model_type}: {reason}")
        sites = find_sites(model, names)
        self.modules_by_site, self.layer_names = sites
        self._hooked = HookedModel(model, sites, cache)
        # Collected here, since a walk through all modules takes a tenth of the time of a generated token.
        self._checkpointable: list[Any] = [
            module for module in model.modules() if hasattr(module, "gradient_checkpointing")
        ]
        self.kernel = kernel
        self.train(self.training)
        if self.model_type not in HF_SITES and (reason := reading_refusal(self._hooked)):
            raise ValueError(f"{self.model_type}: {reason}")

    @property
    def config(self) -> Any:
        """The model's own configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where tokens have to be."""
        return self._hooked.device

    @property
    def sites(self) -> dict[Site, tuple[int, int]]:
        """The chosen projections with their shapes (O, I), in the model's order."""
        return {site: projection_shape(self.model.get_submodule(path)) for site, path in self.modules_by_site.items()}

    def site_path(self, site: Site) -> str:
        """Returns the path of a site's module, for `get_submodule`."""
        return f"model.{self.modules_by_site[site]}"

    @property
    def tap_widths(self) -> tuple[tuple[int, int], ...]:
        """For each layer the numbers of inputs of its first and its last site."""
        sites = self.sites
        return tuple((sites[first][1], sites[last][1]) for first, last in self._hooked.sites.ends())

    @property
    def kernel_in_use(self) -> str:
        """What runs the model, as one line. Raises ValueError where the chosen kernel cannot run."""
        import transformers

        name = f"transformers {transformers.__version__}, {self.model_type}"
        recurrence = self._kernel.describe(self.device, self.model.get_input_embeddings().weight.dtype)
        return f"{name}; {recurrence}" if recurrence else name

    def train(self, mode: bool = True) -> HFBackbone:
        """Sets the mode of this module alone: the model stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    def init_state(self, batch: int) -> State:
        """Returns the state of `batch` rows before their first token."""
        return self._hooked.init_state(batch)

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """Not possible: raises ValueError."""
        reason = "only its own code knows how it decays"
        if self._kernel.continues:
            reason = "its decay depends on the text; use load"
        elif self.continues:
            reason = "attention does not decay"
        raise ValueError(f"a memory of {self.model_type} cannot be aged: {reason}")

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """S <- keep S + S_other in recurrent layers of this package; else raises ValueError."""
        if not self._kernel.continues:
            reason = "keys and values do not add up" if self.continues else "only the model's own code knows its scale"
            raise ValueError(f"a memory of {self.model_type} cannot be loaded: {reason}")
        return load_layers(state, other, keep, weight)

    @functools.cached_property
    def anchor_units(self) -> tuple[int, ...]:
        """For each entry of the state the units of its memory, 0 for entries without one; () where nothing can be held.

        Attention in a window keeps keys, which have no window or strength of their own: 0 everywhere.
        """
        state = self.init_state(1)
        return () if anchor_refusal(self.model, state) else layer_units(state)

    @property
    def log_decay(self) -> tuple[Tensor, ...] | None:
        """None: only the model's own code knows how its memory decays."""
        return None

    def make_anchor(self, target: State, log_keep: Sequence[Tensor], share: Sequence[Tensor]) -> Anchor:
        """Returns what pulls recurrent memories back, or what attention in a window keeps; see `Backbone`.

        Raises:
            ValueError: for a type whose memory is no tensor of `DynamicCache`, for attention over the whole text alone,
                and where only some of the layers attend in a window.
        """
        if reason := anchor_refusal(self.model, target):
            raise ValueError(f"{self.model_type}: its state cannot be anchored: {reason}")
        return anchor_layers(target, log_keep, share)

    def anchor(self, state: State, anchor: Anchor) -> State:
        """Returns a state after one pull."""
        return pull_layers(state, anchor)

    def enable_checkpointing(self, every: int) -> None:
        """Not possible: raises ValueError, since the recomputation would not see the update."""
        raise ValueError(
            f"checkpointing is for native backbones; a {self.model_type} is run by transformers, and its recomputation "
            "would not see the update"
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
        """Reads tokens (B, T) on from a state; see `Backbone`. Gradients pass through states where `continues`.

        Raises:
            ValueError: also for a site that the model does not call exactly once, gradients through a state, and
                gradient checkpointing, whose recomputation would not see the update.
        """
        if update is not None:
            check_update(update, self.sites, tokens.shape[0])
        check_call_shape(tokens, lengths)
        check_taps(taps)
        if any(module.gradient_checkpointing for module in self._checkpointable):
            raise ValueError("gradient checkpointing is on in the model; its recomputation does not see the update")
        every = logits in ("all", "deferred")
        positions = None if every else _last_positions(tokens, lengths)
        head = self._head if logits == "deferred" else None
        options = CallOptions(update, update_mask(tokens, update_from), positions, bool(taps), anchor, head=head)
        if self.continues:
            result = self._hooked.call(tokens, state, options._replace(lengths=lengths), keep_state)
        else:
            result = self._read(tokens, state, options, lengths, keep_state)
        seen = self._taps(result.inputs, taps, lengths)
        if logits == "deferred":
            deferred = DeferredLogits(result.logits, nn.Identity())
            if result.hidden is not None and head is not None:
                deferred = DeferredLogits(result.hidden, head)
            return Output(None, result.state, seen, deferred)
        scores = None if logits == "none" else result.logits if every else result.logits.squeeze(1)
        return Output(scores, result.state, seen)

    def _read(
        self, tokens: Tensor, state: State | None, options: CallOptions, lengths: Tensor | None, keep_state: bool
    ) -> CallResult:
        """Reads tokens with the model's own code, which does not continue."""
        batch, time = tokens.shape
        anchor = options.anchor
        if anchor is not None and state is None:
            state = self.init_state(batch)
        if state is not None and (anchor is not None or bool(state[0].tokens.any())):
            return self._hooked.step_by_step(tokens, state, options, lengths)
        if keep_state and lengths is not None and bool((lengths != time).any()):
            return self._hooked.in_groups(tokens, options, lengths)
        return self._hooked.call(tokens, None, options, keep_state)

    @functools.cached_property
    def _head(self) -> nn.Module | None:
        """What makes logits of hidden states, where it can be called outside of the model."""
        return find_head(self.model, self.device)

    def _taps(self, inputs: Mapping[Site, Tensor], taps: Collection[str], lengths: Tensor | None) -> Taps:
        if not taps:
            return Taps()
        first, last = zip(*((inputs[first], inputs[last]) for first, last in self._hooked.sites.ends()), strict=True)
        return Taps(
            tuple(last_valid(x, lengths) for x in first) if "last" in taps else (),
            first if "inputs" in taps else (),
            last if "memory" in taps else (),
        )


def _last_positions(tokens: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, 1) where each row's last valid token stands."""
    batch, time = tokens.shape
    if lengths is None:
        return torch.full((batch, 1), time - 1, device=tokens.device)
    return (lengths - 1).clamp(min=0).unsqueeze(1)
