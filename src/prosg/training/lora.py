"""Phase 1 with few trained parameters: LoRA by PEFT on a backbone's projections, merged at the end.

    W x + (alpha / r) B A x        A (r, I) drawn, B (O, r) zero at first, W frozen

What is trained is a low-rank update that no prompt made, so what stands for updates serves it, too: `elsewhere.merge`
puts it into the weights, `elsewhere.export_peft` writes it as PEFT does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.native import Native
from prosg.checkpoints.export import PAST_PEFT, site_path
from prosg.core.update import LowRank, Site, Update

__all__ = ["is_lora", "put_on", "take_off"]

NAME = "default"
"""PEFT's name for the only adapter."""


def is_lora(parameter: str) -> bool:
    """Whether a parameter of this name is one of the factors."""
    return "lora_" in parameter


def put_on(backbone: Native | HFBackbone, rank: int, alpha: float, names: Sequence[str], seed: int) -> None:
    """Wrap projections in place. All of the backbone's sites, without `names`; but those that PEFT refuses.

    Args:
        backbone: What is fine-tuned.
        rank: Of the factors.
        alpha: Their product is scaled by alpha / rank.
        names: Sites' names, like key.
        seed: Of A's values.

    Raises:
        ValueError: where PEFT is missing, and for names that are no sites or that PEFT refuses.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError("lora needs the package peft; install it, or prosg with the extra train") from None
    past = backbone.config.model_type in PAST_PEFT  # its kernels use the weight itself and go round a wrapped module
    known = [name for name in dict.fromkeys(site.name for site in backbone.sites) if not (past and name == "out_proj")]
    wanted = [name.replace(".", "_") for name in names] or known
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"lora_modules has {', '.join(unknown)}; for this model allowed: {', '.join(known)}")
    paths = [site_path(backbone, site) for site in backbone.sites if site.name in wanted]
    inner = backbone
    if isinstance(backbone, HFBackbone):  # PEFT asks some of transformers' models for more than their modules
        inner, paths = backbone.model, [path.removeprefix("model.") for path in paths]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths), inner, NAME)


def take_off(backbone: Native | HFBackbone) -> Update:
    """Unwrap the projections again, unmerged. Returns what was trained as an update of one row; B holds the scale."""
    update: dict[Site, LowRank] = {}
    for site in backbone.sites:
        path = site_path(backbone, site)
        module: Any = backbone.get_submodule(path)
        if not hasattr(module, "lora_A"):
            continue
        a, b = (factors[NAME].weight.detach().float() for factors in (module.lora_A, module.lora_B))
        update[site] = LowRank(a.unsqueeze(0), module.scaling[NAME] * b)
        parent, _, name = path.rpartition(".")
        setattr(backbone.get_submodule(parent), name, module.get_base_layer())
    return update
