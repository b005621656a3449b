"""What `prosg demo` can train: small models of random weights, and what suits each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from prosg.backbones import BACKBONES

__all__ = ["SUBJECTS", "Subject"]


class Subject(NamedTuple):
    """A backbone of about half a million parameters and a vocabulary of 1024, and what it brings to the demo."""

    fresh: Callable[[int], Any]
    """seed -> the backbone with random weights"""
    durable: str
    """the recipe that mends its forgetting best without a module: the strongest rival; "" where there is none"""
    rivals: tuple[tuple[str, int], ...]
    """steps of each rival: at least as many as cost `plus`'s seconds on a quiet core"""
    paper: bool = True
    """whether the preset `paper` fits its shapes"""
    plus: tuple[str, ...] = ()
    """options of `plus`'s training that differ from its recipe's"""
    phase1_steps: int = 2500
    """at most; what takes longer to learn to recall has more"""


def _native(name: str) -> Callable[[int], Any]:
    def fresh(seed: int) -> Any:
        kind = BACKBONES[name]
        model = kind.model(kind.sizes["demo"])
        model.reset_parameters(torch.Generator().manual_seed(seed))
        return model

    return fresh


def _mamba(seed: int) -> Any:
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


RIVALS = (
    ("phase1_more", 1400),
    ("phase1_perturbed", 1100),
    ("phase1_replay", 1200),
    ("static", 1800),
    ("static_perturbed", 1300),
)

SUBJECTS: dict[str, Subject] = {
    "rwkv4": Subject(_native("rwkv4"), "durable", RIVALS),
    "rwkv7": Subject(_native("rwkv7"), "durable-load", RIVALS),
    # Its values are twice as wide as the model, and `paper` gives every projection the width of the model.
    "retnet": Subject(_native("retnet"), "durable-load", RIVALS, paper=False),
    # What is done to its memory is left to transformers' own code: it can be wiped and swapped, not loaded or aged.
    "mamba": Subject(
        _mamba,
        "",
        tuple(rival for rival in RIVALS if not rival[0].endswith("perturbed")),
        paper=False,
        plus=("--perturbation.load", "0", "--perturbation.load_story", "0", "--perturbation.swap", "0.3"),
        phase1_steps=5000,
    ),
}
"""By the name that `prosg demo --backbone` takes."""
