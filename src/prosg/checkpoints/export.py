"""One encoded prompt's update for programs that know no updates: merged into weights, or as a LoRA folder of PEFT.

    merge         W + dW in place of W: a backbone like any other, written as a .pth or a folder
    export_peft   dW = B A as `adapter_config.json` and `adapter_model.safetensors`, beside unchanged weights

Both hold for one prompt. What an encoded prompt has beyond its update stays behind: the recurrent state, and the last
logits of the unmodified weights, which give the first answer token (`EncodedPrompt`).
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prosg.backbones import BACKBONES
from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.layouts import to_hf
from prosg.backbones.native import Native
from prosg.core.tensors import wide
from prosg.core.update import LowRank, Site, Update, batch_size, check_update
from prosg.utils.io import written_whole

__all__ = ["PEFT_CONFIG", "PEFT_WEIGHTS", "export_peft", "merge", "peft_names", "site_path"]

PAST_PEFT = ("mamba", "mamba2", "falcon_mamba")
"""Types whose projection called out_proj PEFT refuses."""
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def merge(backbone: Native | HFBackbone, update: Update) -> Native | HFBackbone:
    """The same backbone with W + dW (eq. 8-12), computed in fp32, in the weights' type; it shares all other tensors.

    Raises ValueError for an update of several prompts, and for one that does not fit.
    """
    _check_one(backbone, update)
    tensors = itertools.chain(backbone.parameters(), backbone.buffers())
    merged = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
    for site, delta in update.items():
        module: Any = merged.get_submodule(site_path(merged, site))
        weight: Tensor = module.weight
        dense = delta.dense()[0].to(weight.device)
        if _is_transposed(module):
            dense = dense.mT
        module.weight = nn.Parameter((wide(weight.detach()) + dense).to(weight.dtype), weight.requires_grad)
    return merged


def export_peft(
    backbone: Native | HFBackbone, update: Update, folder: str | Path, *, base: str = "", overwrite: bool = False
) -> None:
    """Write an update as a LoRA adapter that `peft.PeftModel.from_pretrained` loads on transformers' model.

    Args:
        backbone: What the update belongs to.
        update: Of one prompt. Its factors are LoRA's, written in fp32; alpha = r, so that the scale is 1.
        folder: What to write.
        base: A name or path of the model in transformers' layout, for PEFT to find it by.
        overwrite: Replace an adapter of PEFT that is there.

    Raises:
        ValueError: for an update of several prompts or ranks, one that does not fit, and for a backbone that PEFT
            cannot serve.
        FileExistsError: for a folder that is there and may not be replaced.
    """
    _check_one(backbone, update)
    names = {site: name for site, name in peft_names(backbone).items() if site in update}
    model_type = backbone.config.model_type
    if refused := sorted({site.name for site, name in names.items() if _is_past_peft(model_type, name)}):
        raise ValueError(
            f"PEFT puts no adapter on {', '.join(refused)} of {model_type}, as its kernels go round a wrapped one; use "
            "prosg merge, or train a module with other --module.target_modules"
        )
    ranks = {delta.a.shape[1] for delta in update.values()}
    if len(ranks) != 1:
        raise ValueError(f"the update has ranks {', '.join(map(str, sorted(ranks)))}; an adapter of PEFT has one")
    rank = ranks.pop()
    conv = any(_is_transposed(backbone.get_submodule(site_path(backbone, site))) for site in update)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": conv,
        "target_modules": _pattern(list(names.values())),
        "inference_mode": True,
    }
    tensors: dict[str, Tensor] = {}
    for site, delta in update.items():
        a, b = _one_row(delta)
        tensors[f"base_model.model.{names[site]}.lora_A.weight"] = a
        tensors[f"base_model.model.{names[site]}.lora_B.weight"] = b
    with written_whole(Path(folder), overwrite=overwrite, marker=PEFT_CONFIG) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / PEFT_WEIGHTS, metadata={"format": "pt"})
        (temporary / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def peft_names(backbone: Native | HFBackbone) -> dict[Site, str]:
    """What transformers' model calls the module of each site. ValueError where there is no such model."""
    if isinstance(backbone, HFBackbone):
        return dict(backbone.modules_by_site)
    layout = BACKBONES[backbone.config.model_type].layout
    if "architectures" not in layout.hf_config:
        raise ValueError(
            f"{backbone.config.model_type} is a backbone of this package alone: there is no model of transformers that "
            "PEFT could put an adapter on; use prosg merge"
        )
    names = {}
    for site in backbone.sites:
        name = to_hf(f"{site_path(backbone, site)}.weight", layout.names)
        assert name is not None
        names[site] = name.removesuffix(".weight")
    return names


def _is_past_peft(model_type: str, name: str) -> bool:
    return model_type in PAST_PEFT and name.endswith("out_proj")


def _check_one(backbone: Native | HFBackbone, update: Update) -> None:
    rows = batch_size(update)
    if rows != 1:
        raise ValueError(f"the update is that of {rows} prompts; weights hold one prompt's: encode them one by one")
    check_update(update, backbone.sites, 1)


def site_path(backbone: Native | HFBackbone, site: Site) -> str:
    """Where a site's module is in its backbone, for `get_submodule`."""
    if isinstance(backbone, HFBackbone):
        return f"model.{backbone.modules_by_site[site]}"
    return f"blocks.{site.layer}.att.{site.name}"


def _is_transposed(module: nn.Module) -> bool:
    """GPT-2's Conv1D holds its weight as (I, O)."""
    return not hasattr(module, "in_features")


def _one_row(delta: LowRank) -> tuple[Tensor, Tensor]:
    """a (r, I) and b (O, r) of an update of one prompt, fp32 and on the CPU."""
    row = delta.rows()
    return tuple(factor[0].detach().to("cpu", torch.float32).contiguous() for factor in row)  # type: ignore[return-value]


def _pattern(names: list[str]) -> str:
    """A regular expression for these modules and no others: PEFT matches whole names with it.

    Names alone would be looked for at the end of every module's path, where RWKV's feed-forward has a key, a value and
    a receptance, too.
    """
    stems: dict[str, dict[str, None]] = {}
    for name in names:
        stem, _, last = name.rpartition(".")
        any_layer = r"\d+".join(re.escape(part) for part in re.split(r"\d+", stem))
        stems.setdefault(any_layer, {})[re.escape(last)] = None
    return "|".join(rf"{stem}\.({'|'.join(lasts)})" for stem, lasts in stems.items())
