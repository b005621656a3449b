"""Which projections of a model of transformers an update acts on, and where their modules are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from prosg.backbones.hf.cache import TransformersModel
from prosg.core.update import Site

__all__ = ["HF_SITES", "LANGUAGE_MODELS", "ModelSites", "check_target_modules", "find_sites", "projection_shape"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
HF_SITES: dict[str, tuple[str, ...]] = {
    "mamba": ("in_proj", "x_proj", "out_proj"),
    "falcon_mamba": ("in_proj", "x_proj", "out_proj"),
    "mamba2": ("in_proj", "out_proj"),
    "recurrent_gemma": ("linear_y", "linear_x", "linear_out"),
    "xlstm": ("q", "k", "v", "ogate_preact", "out_proj"),
    "qwen3_next": ("in_proj_qkvz", "linear_attn.out_proj"),
    "qwen3_5_text": ("in_proj_qkv", "in_proj_z", "linear_attn.out_proj"),
    "qwen3_5_moe_text": ("in_proj_qkv", "in_proj_z", "linear_attn.out_proj"),
    "gpt2": ("c_attn", "attn.c_proj"),
    "llama": ATTENTION,
    "mistral": ATTENTION,
    "qwen2": ATTENTION,
    "qwen3": ATTENTION,
}
"""model_type -> the projections of its time-mixing blocks, by the end of their modules' names, as in PEFT."""
LANGUAGE_MODELS = {"qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text"}
"""model_type of a folder with a model of text and pictures -> that of its language model, which is loaded alone."""


class ModelSites(NamedTuple):
    """The sites of one model."""

    modules: dict[Site, str]
    """The path of each site's module, in the model's order."""
    layers: tuple[str, ...]
    """The paths of the layers that have sites; `Site.layer` is an index into them."""

    def ends(self) -> list[tuple[Site, Site]]:
        """Returns each layer's first and last site. Taps are their inputs: the layer's input, and its memory."""
        by_layer: list[list[Site]] = [[] for _ in self.layers]
        for site in self.modules:
            by_layer[site.layer].append(site)
        return [(sites[0], sites[-1]) for sites in by_layer]


def check_target_modules(names: Sequence[str]) -> None:
    """Raises ValueError unless names are a list of texts: one text is none, though it is a sequence, too."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'target_modules is {names!r}; give a list of projections\' names, as ["q_proj", "v_proj"]')


def find_sites(model: TransformersModel, names: Sequence[str] = ()) -> ModelSites:
    """Finds the projections to update.

    Args:
        model: A causal language model of transformers.
        names: Ends of the modules' paths, as "out_proj" or "attn.c_proj", with dots or underscores between the parts;
            those of `HF_SITES` by default.

    Raises:
        ValueError: where no names are known for this type, a name fits no projection, or it fits several in one layer;
            and for one text in the place of a list.
    """
    model_type = model.config.model_type
    check_target_modules(names)
    wanted = tuple(dict.fromkeys(name.replace(".", "_") for name in names or HF_SITES.get(model_type, ())))
    if not wanted:
        known = ", ".join(HF_SITES)
        raise ValueError(f"{model_type}: name the projections to update (target_modules); known without: {known}")
    paths_by_layer: dict[str, dict[str, str]] = {}
    for path, module in model.named_modules():
        layer = re.match(r"(.*?\.\d+)\.", path)
        if layer is None or not _is_projection(module):
            continue
        parts = path.split(".")
        ends = {"_".join(parts[i:]) for i in range(len(parts))}
        paths = paths_by_layer.setdefault(layer[1], {})
        for name in (name for name in wanted if name in ends):
            if name in paths:
                raise ValueError(f"{model_type}: {name!r} names {paths[name]} and {path}; write more of the path")
            paths[name] = path
    paths_by_layer = {layer: paths for layer, paths in paths_by_layer.items() if paths}
    present = {name for paths in paths_by_layer.values() for name in paths}
    if missing := [name for name in wanted if name not in present]:
        raise ValueError(f"target_modules {missing} not in this {model_type}; it has {_projection_names(model)}")
    return ModelSites(
        {Site(i, name): path for i, paths in enumerate(paths_by_layer.values()) for name, path in paths.items()},
        tuple(paths_by_layer),
    )


def projection_shape(module: Any) -> tuple[int, int]:
    """Returns (O, I) of a projection. GPT-2's Conv1D has no such attributes, and its weight is transposed."""
    if hasattr(module, "in_features"):
        return module.out_features, module.in_features
    inp, out = module.weight.shape
    return out, inp


def _is_projection(module: nn.Module) -> bool:
    return hasattr(module, "in_features") or type(module).__name__ == "Conv1D"


def _projection_names(model: TransformersModel) -> str:
    """The last names of all projections inside of layers."""
    paths = (path for path, module in model.named_modules() if re.search(r"\.\d+\.", path) and _is_projection(module))
    return ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in paths))
