"""Exporting the update of one prompt for programs that do not know updates.

    merge         W + dW in place of W: a backbone like any other, to be saved as a .pth or a folder
    export_peft   dW = B A as a LoRA adapter of PEFT: `adapter_config.json` and `adapter_model.safetensors`
    (`gguf_lora`  the same as a LoRA adapter of llama.cpp)

The rest of an encoded prompt is not exported: the recurrent state, and the last logits of the unmodified weights, which
give the first answer token.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prosg.backbones import BACKBONES, BackboneModule
from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.layouts import to_hf
from prosg.backbones.quantised import refuse_quantised
from prosg.core.checks import check_update_values, check_values
from prosg.core.tensors import wide
from prosg.core.update import Site, Update, batch_size, check_update
from prosg.utils.io import written_whole
from prosg.utils.replaceable import FolderKind

__all__ = [
    "PEFT_CONFIG",
    "PEFT_WEIGHTS",
    "check_single_prompt",
    "export_peft",
    "merge",
    "peft_names",
    "peft_sites",
    "single_rank",
    "site_module",
]

PEFT_REFUSES_OUT_PROJ = ("mamba", "mamba2", "falcon_mamba")
"""Types of models whose kernels go round a wrapped out_proj, so that PEFT refuses it."""
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT_FOLDER = FolderKind("an adapter of PEFT", PEFT_CONFIG, ("peft_type",), (PEFT_WEIGHTS,))


def merge(backbone: BackboneModule, update: Update) -> BackboneModule:
    """Returns the backbone with the weights W + dW (eq. 8-12), sharing all other tensors with the original.

    The sum is computed in fp32 and cast to the weights' type.

    Raises:
        ValueError: for a quantised backbone, an update of several prompts, one that does not fit the backbone, and for
            numbers that are not finite in it or in the sum.
    """
    refuse_quantised(backbone, "merged")
    check_single_prompt(backbone, update)
    tensors = itertools.chain(backbone.parameters(), backbone.buffers())
    merged = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
    for site, delta in update.items():
        module: Any = site_module(merged, site)
        weight: Tensor = module.weight
        dense = delta.dense()[0].to(weight.device)
        if _is_transposed(module):
            dense = dense.mT
        total = (wide(weight.detach()) + dense).to(weight.dtype)
        check_values(f"W + dW of site {site}", total, torch.finfo(weight.dtype).max)
        module.weight = nn.Parameter(total, weight.requires_grad)
    return merged


def export_peft(
    backbone: BackboneModule,
    update: Update,
    folder: str | Path,
    *,
    base: str = "",
    invocation: Sequence[int] = (),
    overwrite: bool = False,
) -> None:
    """Writes an update as a LoRA adapter that `peft.PeftModel.from_pretrained` puts on transformers' model.

    Args:
        backbone: The backbone that the update belongs to.
        update: The update of one prompt. Its factors become LoRA's, in fp32; alpha = r, so that the scale is 1.
        folder: What to write.
        base: Name or path of the model in transformers' layout, for PEFT to find it by.
        invocation: Token ids from whose last occurrence on the adapter acts; none for one that acts on every token.
        overwrite: Replace a PEFT adapter that is there.

    Raises:
        ValueError: for an update of several prompts or ranks, one that does not fit, and for a backbone on which PEFT
            cannot put adapters.
        FileExistsError: for a folder that may not be replaced.
    """
    check_single_prompt(backbone, update)
    names = peft_sites(backbone, update)
    rank = single_rank(update, "an adapter of PEFT")
    conv = any(_is_transposed(site_module(backbone, site)) for site in update)
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
        **({"alora_invocation_tokens": list(invocation)} if invocation else {}),
    }
    tensors: dict[str, Tensor] = {}
    for site, delta in update.items():
        a, b = (factor[0].detach().to("cpu", torch.float32).contiguous() for factor in delta.rows())
        tensors[f"base_model.model.{names[site]}.lora_A.weight"] = a
        tensors[f"base_model.model.{names[site]}.lora_B.weight"] = b
    with written_whole(Path(folder), overwrite=overwrite, kind=PEFT_FOLDER) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / PEFT_WEIGHTS, metadata={"format": "pt"})
        (temporary / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def peft_sites(backbone: BackboneModule, update: Update) -> dict[Site, str]:
    """Returns the path of each site of an update. Raises ValueError for one on which PEFT puts no adapter."""
    names = {site: name for site, name in peft_names(backbone).items() if site in update}
    model_type = backbone.config.model_type
    if refused := sorted({site.name for site, name in names.items() if _peft_refuses(model_type, name)}):
        raise ValueError(
            f"PEFT puts no adapter on {', '.join(refused)} of {model_type}, as its kernels go round a wrapped one; use "
            "prosg merge, or train a module with other --module.target_modules"
        )
    return names


def peft_names(backbone: BackboneModule) -> dict[Site, str]:
    """Returns the path of each site's module in transformers' model. Raises ValueError if there is no such model."""
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
        name = to_hf(f"{backbone.site_path(site)}.weight", layout.names)
        assert name is not None
        names[site] = name.removesuffix(".weight")
    return names


def _peft_refuses(model_type: str, name: str) -> bool:
    return model_type in PEFT_REFUSES_OUT_PROJ and name.endswith("out_proj")


def single_rank(update: Update, what: str) -> int:
    """Returns the rank of all of an update's factors. Raises ValueError, naming what needs one, for several."""
    ranks = {delta.a.shape[1] for delta in update.values()}
    if len(ranks) != 1:
        raise ValueError(f"the update has ranks {', '.join(map(str, sorted(ranks)))}; {what} has one")
    return ranks.pop()


def check_single_prompt(backbone: BackboneModule, update: Update) -> None:
    """Raises ValueError for an update of several prompts, one that does not fit, and values that are not finite."""
    rows = batch_size(update)
    if rows != 1:
        raise ValueError(f"the update is that of {rows} prompts; weights hold one prompt's: encode them one by one")
    check_update(update, backbone.sites, 1)
    check_update_values(update)


def site_module(backbone: BackboneModule, site: Site) -> nn.Module:
    """Returns the projection of a site."""
    return backbone.get_submodule(backbone.site_path(site))


def _is_transposed(module: nn.Module) -> bool:
    """Returns whether a projection stores its weight as (I, O), as GPT-2's Conv1D does."""
    return not hasattr(module, "in_features")


def _pattern(names: list[str]) -> str:
    """Returns a regular expression that matches exactly these paths; PEFT matches it with whole paths.

    PEFT would look for plain names at the end of every path, and so find the key, value and receptance of RWKV's
    feed-forward too.
    """
    stems: dict[str, dict[str, None]] = {}
    for name in names:
        stem, _, last = name.rpartition(".")
        any_layer = r"\d+".join(re.escape(part) for part in re.split(r"\d+", stem))
        stems.setdefault(any_layer, {})[re.escape(last)] = None
    return "|".join(rf"{stem}\.({'|'.join(lasts)})" for stem, lasts in stems.items())
