"""Models of transformers behind the `Backbone` signature; the only place with hooks.

Nothing of a model is rewritten: the update is added to the *output* of the projections that it acts on, by hooks that
exist for the duration of one call. So wrapped projections (PEFT, quantised, GPT-2's Conv1D) work, and nothing of an
update stays behind. A projection that should have been called and was not is an error.

    y = module(x) + (x A^T) B^T

`HF_SITES` says which projections these are. What differs from the native backbones, because the models' own code does:

- Reading on from a state is done token by token and without gradients. In one call several types get it wrong without
  a word, others raise in the backward pass. So a prompt is read in one call, and training reads prompt and answer in
  one call, in which the update acts from the prompt's end (`update_from`).
- Rows of different lengths are read in groups of equal length where their states are wanted: masks are not exact
  everywhere. Without a state they are read at once: all of these models are causal.
- A memory can be wiped or swapped in training, not aged or loaded.
- The model is never in training mode: dropout would make an encoded prompt another one in training than in use.
- `Taps.memory` is the input of a layer's last projection, after the gate.
- Layers without a site do not count: `Site.layer` numbers the others from 0, `layer_names` says which they are.

`docs/backbones.md` has a table of what each type can do, and which test shows it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prosg.backbones.base import TAPS, Logits, Output, Taps, last_valid
from prosg.backbones.hf.cache import CACHES, Attention, Cache, Read, parameters
from prosg.backbones.hf.scan import KERNEL_NAMES, describe_scan, use_scan
from prosg.core.state import State, choose_rows, join_states, map_state, take_rows
from prosg.core.update import Site, Update, add_delta, check_update, take_update_rows

__all__ = ["HF_SITES", "HFBackbone"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
HF_SITES: dict[str, tuple[str, ...]] = {
    "mamba": ("in_proj", "x_proj", "out_proj"),
    "falcon_mamba": ("in_proj", "x_proj", "out_proj"),
    "mamba2": ("in_proj", "out_proj"),
    "recurrent_gemma": ("linear_y", "linear_x", "linear_out"),
    "xlstm": ("q", "k", "v", "ogate_preact", "out_proj"),
    "qwen3_next": ("in_proj_qkvz", "linear_attn.out_proj"),
    "gpt2": ("c_attn", "attn.c_proj"),
    "llama": ATTENTION,
    "mistral": ATTENTION,
    "qwen2": ATTENTION,
    "qwen3": ATTENTION,
}
"""model_type -> the projections of its time-mixing blocks, by the end of their modules' names, as in PEFT."""


class _Asked(NamedTuple):
    """What is asked of one call of the model."""

    update: Update | None
    active: Tensor | None
    """(B, T, 1) where the update acts; None: everywhere"""
    positions: Tensor | None
    """(B, N) the positions whose logits are wanted; None: all"""
    taps: frozenset[str]


class _Call(NamedTuple):
    """What one call of the model gave: logits, the inputs of the projections that were listened to, its state."""

    logits: Tensor
    """(B, N, V)"""
    inputs: dict[Site, Tensor]
    state: State


class HFBackbone(nn.Module):
    """A causal language model of transformers as a function of (tokens, state, update); see `Backbone`."""

    continues = False
    checkpoint_every = 0
    perturbations = ("wipe", "swap")

    def __init__(self, model: Any, names: Sequence[str] = (), kernel: str = "auto") -> None:
        """`model` is a causal language model of transformers; `names` picks projections instead of `HF_SITES`.

        A name is the end of a module's path, "out_proj" or "attn.c_proj", with dots or underscores between its parts.
        `kernel` is what runs Mamba's recurrence: see `hf_scan`.

        Raises:
            ValueError: where no projection has such a name, for a model whose cache cannot become a state, and for a
                kernel that this type does not have.
        """
        super().__init__()
        self.model = model
        self.model_type: str = model.config.model_type
        self.cache: type[Cache] = CACHES.get(self.model_type, Cache)
        if reason := self.cache.refuse(model):
            raise ValueError(f"{self.model_type}: {reason}")
        self.modules_by_site, self.layer_names = _find_sites(model, self.model_type, names)
        # Looked for here: a walk through all modules takes a tenth of a generated token's time.
        self._checkpointed: list[Any] = [each for each in model.modules() if hasattr(each, "gradient_checkpointing")]
        self.kernel = kernel
        self._no_scan = use_scan(model, kernel)
        self.train(self.training)

    @property
    def config(self) -> Any:
        """The model's own configuration."""
        return self.model.config

    @property
    def sites(self) -> dict[Site, tuple[int, int]]:
        """The chosen projections with their shapes (O, I), in the model's order."""
        return {site: _shape(self.model.get_submodule(path)) for site, path in self.modules_by_site.items()}

    @property
    def tap_widths(self) -> tuple[tuple[int, int], ...]:
        """Per layer the widths of the inputs of its first and its last projection."""
        sites = self.sites
        return tuple((sites[first][1], sites[last][1]) for first, last in self._ends())

    @property
    def kernel_in_use(self) -> str:
        """What runs the model."""
        import transformers

        name = f"transformers {transformers.__version__}, {self.model_type}"
        if self.model_type not in KERNEL_NAMES:
            return name
        dtype = self.model.get_input_embeddings().weight.dtype
        return f"{name}; {describe_scan(self.kernel, self._no_scan, self.device, dtype)}"

    def train(self, mode: bool = True) -> HFBackbone:
        """Set the mode of this module alone: the model stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    @torch.no_grad()
    def init_state(self, batch: int) -> State:
        """The state before the first token: as after one token, with nothing in it."""
        tokens = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        one = self._call(tokens, None, _Asked(None, None, None, frozenset()))
        empty = [
            type(layer)(*(leaf[:, :, :0] for leaf in layer)) if isinstance(layer, Attention) else layer
            for layer in one.state
        ]
        return map_state(lambda leaf: leaf.new_zeros(batch, *leaf.shape[1:]), tuple(empty))

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight.device

    def age(self, state: State, steps: Tensor, shift: Tensor) -> State:
        """Not possible. Raises ValueError."""
        raise ValueError(f"a memory of {self.model_type} cannot be aged: only the model's own code knows how it decays")

    def load(self, state: State, other: State, keep: Tensor, weight: Tensor, reference: State) -> State:
        """Not possible. Raises ValueError."""
        raise ValueError(f"a memory of {self.model_type} cannot be loaded: only the model's own code knows its scale")

    def enable_checkpointing(self, every: int) -> None:
        """Not possible: the recomputation would not see the update. Raises ValueError."""
        raise ValueError(
            f"checkpointing is for native backbones; a {self.model_type} is run by transformers, "
            "and its recomputation would not see the update"
        )

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
        """tokens (B, T) int64 -> Output; see `Backbone`. The state carries no gradient; () without `keep_state`.

        Logits, inputs and memory beyond a row's length may be anything.

        Raises:
            ValueError: for an update or taps that do not fit, a projection that was not called, gradients through a
                state, and gradient checkpointing, whose recomputation would not see the update.
        """
        batch, time = tokens.shape
        if update is not None:
            check_update(update, self.sites, batch)
        if unknown := set(taps) - set(TAPS):
            raise ValueError(f"unknown taps {sorted(unknown)}; known are {', '.join(TAPS)}")
        if any(module.gradient_checkpointing for module in self._checkpointed):
            raise ValueError("gradient checkpointing is on in the model; its recomputation does not see the update")
        active = None
        if update_from is not None:
            position = torch.arange(time, device=tokens.device)
            active = (position >= update_from.unsqueeze(1)).unsqueeze(2)
        asked = _Asked(update, active, None if logits == "all" else _last_positions(tokens, lengths), frozenset(taps))
        if state is not None and bool(state[0].tokens.any()):
            call = self._step_by_step(tokens, state, asked, lengths)
        elif keep_state and lengths is not None and bool((lengths != time).any()):
            call = self._in_groups(tokens, asked, lengths)
        else:
            call = self._call(tokens, None, asked, keep_state)
        out = None if logits == "none" else call.logits if logits == "all" else call.logits.squeeze(1)
        return Output(out, call.state, self._taps(call.inputs, taps, lengths))

    def _call(self, tokens: Tensor, state: State | None, asked: _Asked, keep_state: bool = True) -> _Call:
        """Call the model once: on whole rows from the start, or on one token from a state."""
        batch, time = tokens.shape
        longest = getattr(self.config, "max_inference_chunksize", time)
        if time > longest:  # xlstm would go on in parts, without gradients
            raise ValueError(
                f"{time} tokens in one call; this {self.model_type} reads {longest} (max_inference_chunksize)"
            )
        read = torch.zeros(batch, dtype=torch.int64, device=tokens.device) if state is None else state[0].tokens
        cache = self.cache(self.model, None if state is None else state[1:], batch, keep_state)
        arguments = cache.arguments()
        if state is not None and (attention := [layer for layer in state if isinstance(layer, Attention)]):
            seen = attention[0].keys.shape[2]
            arguments["position_ids"] = read.unsqueeze(1)
            mask = torch.arange(seen + 1, device=tokens.device) >= seen - read.unsqueeze(1)
            if not bool(mask.all()):
                arguments["attention_mask"] = mask.long()
        sliced = asked.positions is not None and "logits_to_keep" in parameters(self.model.__class__)
        if sliced:
            arguments["logits_to_keep"] = asked.positions
        try:
            with self._listening(asked) as inputs:
                output = self.model(input_ids=tokens, **arguments)
            layers = cache.layers()
        finally:
            cache.close()
        logits: Tensor = output.logits
        if asked.positions is not None and not sliced:
            logits = logits.gather(1, asked.positions.unsqueeze(2).expand(-1, -1, logits.shape[2]))
        return _Call(logits, inputs, (Read(read + time), *layers) if keep_state else ())

    @contextmanager
    def _listening(self, asked: _Asked) -> Iterator[dict[Site, Tensor]]:
        """Within, the update acts, and the inputs of the projections that the taps are taken from are kept."""
        update = asked.update or {}
        inputs: dict[Site, Tensor] = {}
        called: dict[Site, int] = dict.fromkeys(update, 0)
        ends = {site for pair in self._ends() for site in pair} if asked.taps else set()

        def hook(site: Site) -> Any:
            def add(module: nn.Module, arguments: tuple[Tensor, ...], y: Tensor) -> Tensor:
                x = arguments[0]
                called[site] = called.get(site, 0) + 1
                if site in ends:
                    inputs[site] = x
                return add_delta(y, x, update[site], asked.active) if site in update else y

            return add

        chosen = [site for site in self.modules_by_site if site in update or site in ends]
        handles = [self._module(site).register_forward_hook(hook(site)) for site in chosen]
        try:
            yield inputs
        finally:
            for handle in handles:
                handle.remove()
        for site in chosen:
            if called.get(site, 0) != 1:
                raise ValueError(
                    f"site {site} ({self.modules_by_site[site]}) was called {called.get(site, 0)} times in one pass, "
                    "not once: the model goes round it, and an update of it would be lost; choose other projections"
                )

    def _step_by_step(self, tokens: Tensor, state: State, asked: _Asked, lengths: Tensor | None) -> _Call:
        """Read on from a state, one token after the other; rows that have ended keep their state."""
        factors = [factor for delta in (asked.update or {}).values() for factor in delta]
        if torch.is_grad_enabled() and any(t.requires_grad for t in [*self.parameters(), *factors]):
            raise ValueError(
                f"gradients through a state of {self.model_type} are not to be had from its own code: read prompt and "
                "answer in one call with update_from, or read on under torch.no_grad()"
            )
        calls = []
        for t in range(tokens.shape[1]):
            active = None if asked.active is None else asked.active[:, t : t + 1]
            call = self._call(tokens[:, t : t + 1], state, asked._replace(active=active, positions=None))
            state = call.state if lengths is None else choose_rows(lengths > t, call.state, state)
            calls.append(call)
        logits = torch.cat([call.logits for call in calls], 1)
        if asked.positions is not None and logits.shape[1] > 1:
            logits = logits.gather(1, asked.positions.unsqueeze(2).expand(-1, -1, logits.shape[2]))
        inputs = {site: torch.cat([call.inputs[site] for call in calls], 1) for site in calls[0].inputs}
        return _Call(logits, inputs, state)

    def _in_groups(self, tokens: Tensor, asked: _Asked, lengths: Tensor) -> _Call:
        """Read rows of different lengths from the start, those of one length together."""
        batch, time = tokens.shape
        calls, order, states = [], [], []
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero().squeeze(1)
            order.append(rows)
            if length == 0:
                states.append(self.init_state(len(rows)))
                continue
            part = _Asked(
                None if asked.update is None else take_update_rows(asked.update, rows),
                None if asked.active is None else asked.active[rows, :length],
                None if asked.positions is None else asked.positions[rows],
                asked.taps,
            )
            call = self._call(tokens[rows, :length], None, part)
            calls.append((rows, call))
            states.append(call.state)

        def whole(parts: list[tuple[Tensor, Tensor]], time: int) -> Tensor:
            full = parts[0][1].new_zeros(batch, time, parts[0][1].shape[2])
            for rows, part in parts:
                full = full.index_copy(0, rows, F.pad(part, (0, 0, 0, time - part.shape[1])))
            return full

        logits = whole([(rows, call.logits) for rows, call in calls], time if asked.positions is None else 1)
        sites = calls[0][1].inputs
        inputs = {site: whole([(rows, call.inputs[site]) for rows, call in calls], time) for site in sites}
        return _Call(logits, inputs, take_rows(join_states(states), torch.cat(order).argsort()))

    def _ends(self) -> list[tuple[Site, Site]]:
        """Each layer's first projection, whose input is the layer's, and its last, whose input is its memory."""
        layers: list[list[Site]] = [[] for _ in self.layer_names]
        for site in self.modules_by_site:
            layers[site.layer].append(site)
        return [(sites[0], sites[-1]) for sites in layers]

    def _taps(self, inputs: dict[Site, Tensor], taps: Collection[str], lengths: Tensor | None) -> Taps:
        if not taps:
            return Taps()
        first, last = ([inputs[pair[i]] for pair in self._ends()] for i in (0, 1))
        return Taps(
            tuple(last_valid(x, x[:, 0], lengths) for x in first) if "last" in taps else (),
            tuple(first) if "inputs" in taps else (),
            tuple(last) if "memory" in taps else (),
        )

    def _module(self, site: Site) -> nn.Module:
        module: nn.Module = self.model.get_submodule(self.modules_by_site[site])
        return module


def _last_positions(tokens: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, 1) where each row's last valid token stands."""
    batch, time = tokens.shape
    if lengths is None:
        return torch.full((batch, 1), time - 1, device=tokens.device)
    return (lengths - 1).clamp(min=0).unsqueeze(1)


def _shape(module: Any) -> tuple[int, int]:
    """(O, I) of a projection; a Conv1D of GPT-2 has no such numbers, and its weight is the other way round."""
    if hasattr(module, "in_features"):
        return module.out_features, module.in_features
    inp, out = module.weight.shape
    return out, inp


def _find_sites(model: Any, model_type: str, names: Sequence[str]) -> tuple[dict[Site, str], tuple[str, ...]]:
    """The paths of the chosen projections' modules, and of the layers that they lie in."""
    wanted = tuple(name.replace(".", "_") for name in names or HF_SITES.get(model_type, ()))
    if not wanted:
        raise ValueError(f"{model_type}: name the projections to update (target_modules); known without: {_known()}")
    found: dict[str, dict[str, str]] = {}
    for path, module in model.named_modules():
        inside = re.match(r"(.*?\.\d+)\.", path)
        if inside is None or not _projects(module):
            continue
        parts = path.split(".")
        ends = {"_".join(parts[i:]) for i in range(len(parts))}
        sites = found.setdefault(inside[1], {})
        for name in (name for name in wanted if name in ends):
            if name in sites:
                raise ValueError(f"{model_type}: {name!r} names {sites[name]} and {path}; write more of the path")
            sites[name] = path
    found = {layer: sites for layer, sites in found.items() if sites}
    there = {name for sites in found.values() for name in sites}
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(f"target_modules {missing} not in this {model_type}; it has {_projections(model)}")
    paths = {Site(i, name): path for i, sites in enumerate(found.values()) for name, path in sites.items()}
    return paths, tuple(found)


def _known() -> str:
    return ", ".join(HF_SITES)


def _projections(model: Any) -> str:
    """The last names of all projections inside of layers."""
    paths = (path for path, module in model.named_modules() if re.search(r"\.\d+\.", path) and _projects(module))
    return ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def _projects(module: nn.Module) -> bool:
    return hasattr(module, "in_features") or type(module).__name__ == "Conv1D"
