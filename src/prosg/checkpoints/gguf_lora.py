"""One prompt's update as a LoRA adapter of llama.cpp.

    blk.LAYER.SITE.weight.lora_a      A (r, I)
    blk.LAYER.SITE.weight.lora_b      B (O, r); alpha = r, so that W + B A is what llama.cpp computes with

An *activated* adapter also names token ids: `llama-server` reads what stands before their last occurrence without it.
Which projections an adapter may act on llama.cpp's graphs say: RWKV-7's four, which it uses as this package does (the
first layer's value with its update is what later values are moved towards), and those of Mamba's kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prosg.backbones import BackboneModule
from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.layouts import Names, rename
from prosg.checkpoints.export import check_single_prompt, single_rank
from prosg.checkpoints.gguf_file import gguf_file
from prosg.core.update import Site, Update

__all__ = ["export_gguf_lora", "gguf_site_names"]

MAMBA_SITES: Names = tuple(
    (f"backbone.layers.N.mixer.{name}_proj", f"blk.N.ssm_{name}") for name in ("in", "x", "dt", "out")
)
SITES: dict[str, tuple[str, Names]] = {
    "rwkv7": ("rwkv7", (("blocks.N.att.*", "blk.N.time_mix_*"),)),
    "mamba": ("mamba", MAMBA_SITES),
    "falcon_mamba": ("mamba", MAMBA_SITES),
    "mamba2": ("mamba2", MAMBA_SITES),
}
"""Backbone -> llama.cpp's name of its architecture, and of the projections that adapters act on there."""


def gguf_site_names(backbone: BackboneModule) -> tuple[str, dict[Site, str]]:
    """Returns llama.cpp's name of a backbone's architecture and, for each site, the stem of its weight's name.

    Raises:
        ValueError: for a backbone that llama.cpp does not have, or whose sites it cannot adapt.
    """
    model_type = backbone.config.model_type
    if model_type not in SITES:
        raise ValueError(
            f"llama.cpp cannot apply this update: it has adapters for {', '.join(SITES)}, and the backbone is "
            f"{model_type}; use prosg merge"
        )
    architecture, names = SITES[model_type]
    if isinstance(backbone, HFBackbone):
        paths = dict(backbone.modules_by_site)
    else:
        paths = {site: backbone.site_path(site) for site in backbone.sites}
    stems = {site: rename(path, names) for site, path in paths.items()}
    if unknown := sorted({site.name for site, stem in stems.items() if stem is None}):
        raise ValueError(f"llama.cpp has no adapter for {', '.join(unknown)} of {model_type}")
    return architecture, {site: stem for site, stem in stems.items() if stem is not None}


def export_gguf_lora(
    backbone: BackboneModule,
    update: Update,
    path: str | Path,
    *,
    invocation: Sequence[int] = (),
    overwrite: bool = False,
) -> None:
    """Writes an update as a GGUF file that llama.cpp applies to the model as a LoRA adapter.

    Args:
        backbone: The backbone that the update belongs to.
        update: The update of one prompt. Its factors are written in fp32.
        path: The file, which ends in .gguf.
        invocation: Token ids that activate the adapter; none for one that acts on every token.
        overwrite: Replace a file that is there.

    Raises:
        CheckpointError: for a path that does not end in .gguf.
        FileExistsError: for a file that may not be replaced.
        ValueError: for an update of several prompts or ranks, one that does not fit, a backbone that llama.cpp does not
            have, and where the `gguf` package is not installed.
    """
    check_single_prompt(backbone, update)
    architecture, stems = gguf_site_names(backbone)
    rank = single_rank(update, "an adapter of llama.cpp")
    with gguf_file(path, architecture, overwrite=overwrite) as file:
        file.writer.add_type("adapter")
        file.writer.add_string("adapter.type", "lora")
        file.writer.add_float32("adapter.lora.alpha", float(rank))
        if invocation:
            file.add_unsigned("adapter.alora.invocation_tokens", list(invocation))
        for site, delta in update.items():
            a, b = (factor[0] for factor in delta.rows())
            file.add_tensor(f"{stems[site]}.weight.lora_a", a)
            file.add_tensor(f"{stems[site]}.weight.lora_b", b)
