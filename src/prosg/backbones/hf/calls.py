"""Calls of a model of transformers under an update, which acts through forward hooks: the only place with hooks.

    y = module(x) + (x A^T) B^T

The hooks exist for the duration of one call, for whose end another thread's call of the same model waits. They change
the *output* of a projection's module, so wrapped projections (PEFT, quantised, GPT-2's Conv1D) work. A projection that
should be called exactly once and is not is an error.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosg.backbones.base import FullError
from prosg.backbones.hf.anchors import pull_layers
from prosg.backbones.hf.cache import (
    AttentionState,
    CallRows,
    ModelCache,
    TokensRead,
    TransformersModel,
    call_parameters,
)
from prosg.backbones.hf.continuing import position_ids
from prosg.backbones.hf.kept_keys import KeptCache, kept_keys
from prosg.backbones.hf.positions import Positions, find_positions
from prosg.backbones.hf.sites import ModelSites
from prosg.backbones.layers import plain_matrix
from prosg.core.state import Anchor, State, choose_rows, join_states, map_state, take_rows
from prosg.core.update import Site, Update, add_delta, take_update_rows

__all__ = ["CallOptions", "CallResult", "HookedModel", "find_head"]

_LOCKS: WeakKeyDictionary[nn.Module, AbstractContextManager[Any]] = WeakKeyDictionary()
"""By model: a lock is no value that a copy of the model could have."""
_LOCKING = threading.Lock()

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


class CallOptions(NamedTuple):
    """What a call does beside reading tokens."""

    update: Update | None = None
    active: Tensor | None = None
    """(B, T, 1) bool, true where the update acts; None: everywhere"""
    positions: Tensor | None = None
    """(B, 1) the position whose logits are wanted; None: all"""
    taps: bool = False
    """whether to return the inputs of each layer's first and last site"""
    anchor: Anchor | None = None
    """pulls the memory after every token"""
    lengths: Tensor | None = None
    """(B,) valid tokens of each row, for models that continue; None: all"""
    head: nn.Module | None = None
    """whose inputs are wanted in the place of logits"""


class CallResult(NamedTuple):
    """What a call returns."""

    logits: Tensor
    """(B, T or 1, V); of no meaning where `hidden` is wanted"""
    inputs: dict[Site, Tensor]
    """(B, T, I) the inputs of the sites that taps are taken from"""
    state: State
    hidden: Tensor | None = None
    """(B, T, E) the inputs of `CallOptions.head`"""


@dataclass
class HookedModel:
    """A causal language model of transformers, its sites, and how its cache becomes a state."""

    model: TransformersModel
    sites: ModelSites
    cache: type[ModelCache]

    @property
    def model_type(self) -> str:
        """The kind of model, as transformers calls it."""
        return str(self.model.config.model_type)

    @property
    def device(self) -> torch.device:
        """Where tokens have to be."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight.device

    @torch.no_grad()
    def init_state(self, batch: int) -> State:
        """Returns the state before the first token: shaped as after one token, but zeros, without keys and values."""
        token = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        empty = [
            type(layer)(*(leaf[:, :, :0] for leaf in layer)) if isinstance(layer, AttentionState) else layer
            for layer in self.call(token, None, CallOptions()).state
        ]
        return map_state(lambda leaf: leaf.new_zeros(batch, *leaf.shape[1:]), tuple(empty))

    def call(self, tokens: Tensor, state: State | None, options: CallOptions, keep_state: bool = True) -> CallResult:
        """Calls the model once: on texts of equal length from their beginning, or on one token from a state.

        Threads call one after the other, since hooks and some states are on the modules that they share.

        Models that continue (`ContinuingCache`) read any number of tokens from a state, in rows of any length, and
        under an anchor.

        Raises:
            ValueError: for more tokens than the model reads in one call, and for a site whose module is not called
                exactly once.
            FullError: for texts beyond its positions.
        """
        batch, time = tokens.shape
        longest = getattr(self.model.config, "max_inference_chunksize", time)
        if time > longest:  # xlstm would go on in parts, without gradients
            raise ValueError(
                f"{time} tokens in one call; this {self.model_type} reads {longest} (max_inference_chunksize)"
            )
        read = torch.zeros(batch, dtype=torch.int64, device=tokens.device) if state is None else state[0].tokens
        self._check_positions(read + (time if options.lengths is None else options.lengths))
        with _lock_of(self.model):
            return self._call(tokens, state, read, options, keep_state)

    def _call(
        self, tokens: Tensor, state: State | None, read: Tensor, options: CallOptions, keep_state: bool
    ) -> CallResult:
        batch, time = tokens.shape
        if options.anchor is not None and kept_keys(options.anchor):
            before = self.init_state(batch) if state is None else state
            cache: ModelCache = KeptCache(self.model, before, options.anchor, time, options.lengths, keep_state)
            arguments = cache.arguments()
        else:
            layers, anchor = (None if value is None else value[1:] for value in (state, options.anchor))
            cache = self.cache(self.model, layers, CallRows(read, options.lengths, anchor), keep_state)
            arguments = {**cache.arguments(), **_places(state, tokens, options.lengths)}
        model_selects = options.positions is not None and "logits_to_keep" in call_parameters(self.model.__class__)
        if model_selects:
            arguments["logits_to_keep"] = options.positions
        try:
            with self._hooks(options) as inputs, _head_inputs(options.head) as hidden:
                output = self.model(input_ids=tokens, **arguments)
            after = cache.layers()
        finally:
            cache.release()
        logits: Tensor = output.logits
        if not model_selects:
            logits = _at_positions(logits, options.positions)
        now = cache.read + (time if options.lengths is None else options.lengths)
        state = (TokensRead(now), *after) if keep_state else ()
        return CallResult(logits, inputs, state, hidden[0] if hidden else None)

    @functools.cached_property
    def positions(self) -> Positions | None:
        """The longest text that the model reads; None for any."""
        return find_positions(self.model)

    def _check_positions(self, ends: Tensor) -> None:
        """Raises FullError for rows that end (B,) beyond the model's positions."""
        if self.positions is not None and bool((full := ends > self.positions.most).any()):
            raise FullError(
                f"the text has {int(ends.max())} tokens; this {self.model_type} has {self.positions.most} positions "
                f"({self.positions.name})",
                full.tolist(),
            )

    def step_by_step(self, tokens: Tensor, state: State, options: CallOptions, lengths: Tensor | None) -> CallResult:
        """Reads on from a state, token by token and without gradients; rows that have ended keep their state.

        Raises:
            ValueError: where gradients would have to pass through the state.
        """
        factors = [factor for delta in (options.update or {}).values() for factor in delta]
        if torch.is_grad_enabled() and any(t.requires_grad for t in [*self.model.parameters(), *factors]):
            raise ValueError(
                f"gradients through a state of {self.model_type} are not possible with its own code: read prompt and "
                "answer in one call with update_from, or read on under torch.no_grad()"
            )
        results = []
        for t in range(tokens.shape[1]):
            active = None if options.active is None else options.active[:, t : t + 1]
            result = self.call(tokens[:, t : t + 1], state, options._replace(active=active, positions=None))
            after = result.state if options.anchor is None else pull_layers(result.state, options.anchor)
            state = after if lengths is None else choose_rows(lengths > t, after, state)
            results.append(result)
        logits = torch.cat([result.logits for result in results], 1)
        inputs = {site: torch.cat([result.inputs[site] for result in results], 1) for site in results[0].inputs}
        return CallResult(_at_positions(logits, options.positions), inputs, state)

    def in_groups(self, tokens: Tensor, options: CallOptions, lengths: Tensor) -> CallResult:
        """Reads rows of different lengths from their beginning, all rows of one length in one call."""
        batch, time = tokens.shape
        results, order, states = [], [], []
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().squeeze(1)
            order.append(rows)
            if length == 0:
                states.append(self.init_state(len(rows)))
                continue
            group = CallOptions(
                None if options.update is None else take_update_rows(options.update, rows),
                None if options.active is None else options.active[rows, :length],
                None if options.positions is None else options.positions[rows],
                options.taps,
            )
            result = self.call(tokens[rows, :length], None, group)
            results.append((rows, result))
            states.append(result.state)

        def whole(parts: list[tuple[Tensor, Tensor]], time: int) -> Tensor:
            full = parts[0][1].new_zeros(batch, time, parts[0][1].shape[2])
            for rows, part in parts:
                full = full.index_copy(0, rows, F.pad(part, (0, 0, 0, time - part.shape[1])))
            return full

        if not results:
            result = self.call(tokens, None, options, keep_state=False)
            return result._replace(state=self.init_state(batch))
        logits = whole([(rows, result.logits) for rows, result in results], time if options.positions is None else 1)
        sites = results[0][1].inputs
        inputs = {site: whole([(rows, result.inputs[site]) for rows, result in results], time) for site in sites}
        return CallResult(logits, inputs, take_rows(join_states(states), torch.cat(order).argsort()))

    @contextmanager
    def _hooks(self, options: CallOptions) -> Iterator[dict[Site, Tensor]]:
        """Within, the update acts; the dictionary gets the inputs of the sites that taps are taken from."""
        update = options.update or {}
        inputs: dict[Site, Tensor] = {}
        tapped = {site for ends in self.sites.ends() for site in ends} if options.taps else set()
        hooked = [site for site in self.sites.modules if site in update or site in tapped]
        calls = dict.fromkeys(hooked, 0)

        def hook(site: Site) -> Hook:
            def add(module: nn.Module, arguments: tuple[Tensor, ...], y: Tensor) -> Tensor:
                x = arguments[0]
                calls[site] += 1
                if site in tapped:
                    inputs[site] = x
                if site not in update:
                    return y
                active = None if options.active is None else options.active.to(x.dtype)
                return add_delta(y, x, update[site], active)

            return add

        handles = [self.model.get_submodule(self.sites.modules[s]).register_forward_hook(hook(s)) for s in hooked]
        try:
            yield inputs
        finally:
            for handle in handles:
                handle.remove()
        for site, count in calls.items():
            if count != 1:
                raise ValueError(
                    f"site {site} ({self.sites.modules[site]}) was called {count} times in one pass, not once: the "
                    "model bypasses it, and an update of it would be lost; choose other projections"
                )


def _lock_of(model: TransformersModel) -> AbstractContextManager[Any]:
    """The lock that a call of this model holds."""
    with _LOCKING:
        return _LOCKS.setdefault(model, threading.RLock())


def _places(state: State | None, tokens: Tensor, lengths: Tensor | None) -> dict[str, Tensor]:
    """The arguments by which attention knows the places of tokens (B, T) after a state, and a row's own keys."""
    attention = [layer for layer in state or () if isinstance(layer, AttentionState)]
    if state is None or not attention:
        return {}
    read, seen, time = state[0].tokens, attention[0].keys.shape[2], tokens.shape[1]
    places = {"position_ids": position_ids(read, time, lengths)}
    mask = torch.arange(seen + time, device=tokens.device) >= seen - read.unsqueeze(1)
    return places if bool(mask.all()) else {**places, "attention_mask": mask.long()}


def find_head(model: TransformersModel, device: torch.device) -> nn.Module | None:
    """Returns the module by which a model makes logits of hidden states, and nothing else does (no scale, no cap).

    It is tried: large inputs that are put in the place of the head's own have to come out as the head's outputs.

    Returns:
        None where there is no such module, or it is no plain matrix.
    """
    head = model.get_output_embeddings()
    if head is None or plain_matrix(head) is None:
        return None
    weight = head.weight
    made_up = 1e3 * torch.linspace(-1, 1, weight.shape[1], device=device).to(weight.dtype).view(1, 1, -1)
    calls = []

    def replace(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        calls.append(arguments[0].shape)
        return (made_up,)

    with _lock_of(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        wanted = head(made_up).float()
        with head.register_forward_pre_hook(replace):
            logits = model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=device), use_cache=False).logits
    fits = calls == [made_up.shape] and logits.shape == wanted.shape
    return head if fits and torch.allclose(logits.float(), wanted, rtol=1e-5) else None


@contextmanager
def _head_inputs(head: nn.Module | None) -> Iterator[list[Tensor]]:
    """Within, a head computes the first position alone; the list gets what it would have read at all of them."""
    inputs: list[Tensor] = []
    if head is None:
        yield inputs
        return

    def first(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        inputs.append(arguments[0])
        return (arguments[0][:, :1],)

    with head.register_forward_pre_hook(first):
        yield inputs


def _at_positions(logits: Tensor, positions: Tensor | None) -> Tensor:
    """(B, T, V) -> (B, N, V) at positions (B, N); unchanged where there are none."""
    if positions is None:
        return logits
    return logits.gather(1, positions.unsqueeze(2).expand(-1, -1, logits.shape[2]))
