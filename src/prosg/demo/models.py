"""Small models of random weights that `prosg demo` trains, and what suits each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from prosg.backbones import BACKBONES
from prosg.backbones.base import Backbone

__all__ = ["DEMO_MODELS", "DemoModel"]


class DemoModel(NamedTuple):
    """A backbone of about half a million parameters and a vocabulary of 1024, and how the demo trains it."""

    fresh: Callable[[int], Backbone]
    """seed -> the backbone with random weights"""
    durable: str
    """recipe of durable fine-tuning, the strongest rival of an update; "" where there is none"""
    rivals: tuple[tuple[str, int], ...]
    """steps of each rival: at least as many as cost `plus`'s seconds on a quiet core"""
    paper: bool = True
    """whether the preset `paper` fits its shapes"""
    plus: tuple[str, ...] = ()
    """options of `plus`'s training that differ from its recipe's"""
    phase1_steps: int = 2500
    """at most; models that learn to recall late have more"""


def _native(name: str) -> Callable[[int], Backbone]:
    def fresh(seed: int) -> Backbone:
        kind = BACKBONES[name]
        model = kind.model(kind.sizes["demo"])
        model.reset_parameters(torch.Generator().manual_seed(seed))
        return model

    return fresh


def _mamba(seed: int) -> Backbone:
    from transformers import MambaConfig, MambaForCausalLM

    from prosg.backbones.hf.model import HFBackbone

    config = MambaConfig(
        vocab_size=1024,
        hidden_size=96,
        num_hidden_layers=4,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HFBackbone(MambaForCausalLM(config))


RIVAL_STEPS = (
    ("phase1_more", 1400),
    ("phase1_perturbed", 1100),
    ("state_passing", 1100),
    ("phase1_replay", 1200),
    ("phase1_long", 350),
    ("static", 1800),
    ("static_perturbed", 1300),
    ("long_perturbed", 1100),
)

DEMO_MODELS: dict[str, DemoModel] = {
    "rwkv4": DemoModel(_native("rwkv4"), "durable", RIVAL_STEPS),
    "rwkv7": DemoModel(_native("rwkv7"), "durable-load", RIVAL_STEPS),
    # Its values are twice as wide as the model, and `paper` gives every projection the width of the model.
    "retnet": DemoModel(_native("retnet"), "durable-load", RIVAL_STEPS, paper=False),
    # Its memory is the business of transformers' own code: it can be wiped and swapped, not loaded or aged.
    "mamba": DemoModel(
        _mamba,
        "",
        tuple(rival for rival in RIVAL_STEPS if not rival[0].endswith("perturbed")),
        paper=False,
        plus=("--perturbation.load", "0", "--perturbation.load-story", "0", "--perturbation.swap", "0.3"),
        phase1_steps=5000,
    ),
}
"""By the name that `prosg demo --backbone` takes."""
