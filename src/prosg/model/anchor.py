"""The anchor: a memory that is pulled back to the prompt's after every token. It needs no training.

    S <- e^(-1 / tau) S + (1 - e^(-1 / tau)) strength S_prompt

    S          the memory of one unit (a channel of RWKV-4, a head of RWKV-7 or RetNet)
    tau        window, tokens: of what was written so many tokens ago 1 / e is left, beside the memory's own decay
    strength   of the pull; 1 unless it is learned
    S_prompt   the memory at the prompt's end, aged: as if `age` empty tokens had passed since

A fixed-size state forgets its prompt because it decays and because it fills. Under an anchor it does neither: it stays
in the range that it was trained in. The price is that what was written more than about tau tokens ago fades sooner.

With tau = inf nothing of the text fades sooner, and what the prompt's memory loses to the decay is put back ("pin"):
S <- S + (1 - e^w) S_prompt. That needs a decay that does not depend on the text, which RWKV-4 alone has.

Related: State-offset tuning (arXiv 2503.03499) adds a learned offset, the same for every prompt, at every step; State
Soup (arXiv 2406.08423) mixes states once; Stuffed Mamba (arXiv 2410.07145) forgets by a sliding window.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prosg.backbones import BackboneModule
from prosg.backbones.base import Backbone
from prosg.core.state import Anchor, State, map_state

__all__ = ["AnchorDefaults", "StateAnchor", "anchor_defaults", "empty_anchor", "mean_state"]

LEAST_TAU = 1.0
"""Shortest window, tokens: kernels divide by e^(-1 / tau)."""


class AnchorDefaults(NamedTuple):
    """What suits a type of backbone."""

    tau: float
    age: float


DEFAULTS: dict[str, AnchorDefaults] = {
    "rwkv4": AnchorDefaults(tau=50.0, age=15.0),
    "retnet": AnchorDefaults(tau=20.0, age=15.0),
}
"""By `config.model_type`; other memories have no age of their own."""
OTHERS = AnchorDefaults(tau=50.0, age=0.0)


def anchor_defaults(backbone: Backbone) -> AnchorDefaults:
    """Returns window and age that suit a backbone."""
    return DEFAULTS.get(backbone.config.model_type, OTHERS)


class StateAnchor(nn.Module):
    """Windows and strengths of an anchor, one of each per unit of memory; made of a prompt's state, it is an `Anchor`.

    Attributes:
        log_tau: Per layer (units,) the logarithm of the window, tokens.
        log_strength: Per layer (units,) the logarithm of the strength.
        age: Empty tokens by which the prompt's memory is aged.
    """

    def __init__(self, backbone: BackboneModule, tau: float | None = None, age: float | None = None) -> None:
        """Starts with one window for all units; the backbone's own by default.

        Raises:
            ValueError: for a window or an age out of range, and for a backbone whose memory cannot be pulled or aged.
        """
        super().__init__()
        usual, given = anchor_defaults(backbone), tau
        tau, self.age = (usual.tau if tau is None else tau), (usual.age if age is None else age)
        if not tau >= LEAST_TAU:
            raise ValueError(f"tau is {tau}; it must be at least {LEAST_TAU:g} token")
        if not 0 <= self.age < math.inf:
            raise ValueError(f"age is {self.age}; it must be a number of tokens, 0 or more")
        model_type = backbone.config.model_type
        if math.isinf(tau) and backbone.log_decay is None:
            raise ValueError(
                f"tau is inf, which needs a decay that is always the same (rwkv4's); {model_type} has none"
            )
        if self.age and "age" not in backbone.perturbations:
            raise ValueError(f"age is {self.age:g}; a memory of {model_type} cannot be aged, so it must be 0")
        sizes = backbone.anchor_units
        if not sizes:
            backbone.make_anchor(backbone.init_state(1), (), ())  # says why not
        if given is not None and not any(sizes):
            raise ValueError(f"tau is {given:g}; a {model_type} keeps the prompt's keys and values, and pulls nothing")
        device = next(backbone.parameters()).device

        def units(value: float) -> nn.ParameterList:
            return nn.ParameterList(nn.Parameter(torch.full((size,), value, device=device)) for size in sizes)

        self.log_tau, self.log_strength = units(math.log(tau)), units(0.0)
        self.requires_grad_(False)

    def forward(self, backbone: Backbone, prompt: State) -> Anchor:
        """Returns the anchor to the state at a prompt's end (B rows)."""
        if self.age:
            steps = torch.full((prompt[0][0].shape[0],), self.age, device=prompt[0][0].device)
            prompt = backbone.age(prompt, steps, torch.zeros_like(steps))
        windows: Iterable[Tensor] = self.log_tau
        log_keep = [-torch.exp(-log_tau.clamp(min=math.log(LEAST_TAU))).unsqueeze(0) for log_tau in windows]
        lost = [-torch.expm1(keep) for keep in log_keep]
        if (decays := backbone.log_decay) is not None:  # pinned units get back what the decay takes
            pairs = zip(log_keep, lost, decays, strict=True)
            lost = [torch.where(keep < 0, share, -torch.expm1(decay)) for keep, share, decay in pairs]
        strengths: Iterable[Tensor] = self.log_strength
        share = [share * strength.exp() for share, strength in zip(lost, strengths, strict=True)]
        return backbone.make_anchor(prompt, log_keep, share)


def empty_anchor(backbone: Backbone) -> Anchor:
    """Returns an anchor of one row that leaves a memory as it is: the shapes that a backbone's anchors have.

    Raises:
        ValueError: for a backbone whose states cannot be anchored.
    """
    state = backbone.init_state(1)
    units = [torch.zeros(1, number, device=state[0][0].device) for number in backbone.anchor_units]
    return backbone.make_anchor(state, units, units)


def mean_state(backbone: Backbone, states: Iterable[State]) -> State:
    """Returns the mean memory over all rows of several states, as a state of one row, for a control.

    Token shifts are those of the first row.

    Raises:
        ValueError: for no states, and for a backbone that keeps keys and values: prompts differ in their numbers.
    """
    if not any(backbone.anchor_units):
        raise ValueError(f"a mean prompt's keys and values are not defined for a {backbone.config.model_type}")
    mean: State | None = None
    for count, row in enumerate((row for state in states for row in _rows(state)), start=1):
        if mean is None:
            mean = row
            continue
        kept = [torch.full((1, units), math.log(1 - 1 / count)) for units in backbone.anchor_units]
        share = [torch.full((1, units), 1 / count) for units in backbone.anchor_units]
        mean = backbone.anchor(mean, backbone.make_anchor(row, kept, share))
    if mean is None:
        raise ValueError("the mean of no states is undefined")
    return mean


def _rows(state: State) -> Iterable[State]:
    for row in range(state[0][0].shape[0]):
        yield map_state(lambda leaf, row=row: leaf[row : row + 1], state)
