"""LoRA on a backbone's projections, by PEFT: phase 1 with few trained parameters.

    W x + (alpha / r) B A x        A (r, I) random, B (O, r) zero at first, W frozen

A trained LoRA is a low-rank update that does not depend on a prompt, so `prosg.checkpoints.export` serves it, too:
`merge` adds it to the weights, `export_peft` writes it as PEFT does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prosg.backbones import BackboneModule
from prosg.backbones.hf.model import HFBackbone
from prosg.checkpoints.export import PEFT_REFUSES_OUT_PROJ
from prosg.core.update import LowRank, Site, Update
from prosg.utils.extras import missing_extra

__all__ = ["add_lora", "is_lora", "remove_lora"]

NAME = "default"
"""PEFT's name for the only adapter."""


def is_lora(parameter: str) -> bool:
    """Whether a parameter of this name belongs to a LoRA."""
    return "lora_" in parameter


def add_lora(backbone: BackboneModule, rank: int, alpha: float, names: Sequence[str], seed: int) -> None:
    """Wraps projections in place.

    Args:
        backbone: What is fine-tuned.
        rank: Rank r of the factors.
        alpha: Their product is scaled by alpha / rank.
        names: Names of the sites to wrap, like key; empty for all sites that PEFT accepts.
        seed: Seed of A's values.

    Raises:
        ValueError: where PEFT is not installed, and for names that are no sites or that PEFT refuses.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing_extra("lora", "train", error) from None
    refused = {"out_proj"} if backbone.config.model_type in PEFT_REFUSES_OUT_PROJ else set()
    allowed = [name for name in dict.fromkeys(site.name for site in backbone.sites) if name not in refused]
    wanted = [name.replace(".", "_") for name in names] or allowed
    if unknown := [name for name in wanted if name not in allowed]:
        raise ValueError(f"lora_modules has {', '.join(unknown)}; for this model allowed: {', '.join(allowed)}")
    paths = [backbone.site_path(site) for site in backbone.sites if site.name in wanted]
    inner = backbone
    if isinstance(backbone, HFBackbone):  # PEFT needs methods that some of transformers' models have
        inner, paths = backbone.model, [path.removeprefix("model.") for path in paths]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths), inner, NAME)


def remove_lora(backbone: BackboneModule) -> Update:
    """Unwraps the projections without merging.

    Returns:
        The LoRA as an update of one row, A (1, r, I) and B (O, r), the scale in B.
    """
    update: dict[Site, LowRank] = {}
    for site in backbone.sites:
        path = backbone.site_path(site)
        module: Any = backbone.get_submodule(path)
        if not hasattr(module, "lora_A"):
            continue
        a, b = (factors[NAME].weight.detach().float() for factors in (module.lora_A, module.lora_B))
        update[site] = LowRank(a.unsqueeze(0), module.scaling[NAME] * b)
        parent, _, name = path.rpartition(".")
        setattr(backbone.get_submodule(parent), name, module.get_base_layer())
    return update
