"""Which projections are found in a model of transformers, by which names."""

from __future__ import annotations

import pytest

from prosg.backbones.hf.model import HFBackbone
from prosg.backbones.hf.sites import HF_SITES
from prosg.core.update import Site
from support.hf_models import HF_TINY, hf_backbone, hf_model


def test_the_table_names_types_that_transformers_knows() -> None:
    assert set(HF_SITES) == set(HF_TINY)
    assert [hf_backbone(name).model_type for name in HF_SITES] == list(HF_SITES)


def test_layers_without_a_projection_do_not_count() -> None:
    hybrid = hf_backbone("recurrent_gemma")
    assert hybrid.layer_names == ("model.layers.0", "model.layers.1", "model.layers.3")
    assert {site.layer for site in hybrid.sites} == {0, 1, 2}
    assert hf_backbone("qwen3_next").layer_names == ("model.layers.0", "model.layers.1", "model.layers.2")
    attention = HFBackbone(hf_model("recurrent_gemma"), ["q_proj", "o_proj"])
    assert attention.layer_names == ("model.layers.2",)
    assert list(attention.sites) == [Site(0, "q_proj"), Site(0, "o_proj")]


@pytest.mark.parametrize("names", [("attn.c_proj", "mlp.c_fc"), ("attn_c_proj", "mlp_c_fc")])
def test_names_are_ends_of_paths(names: tuple[str, ...]) -> None:
    backbone = HFBackbone(hf_model("gpt2"), [*names, names[0]])
    assert [str(site) for site in backbone.sites] == ["0.attn_c_proj", "0.mlp_c_fc", "1.attn_c_proj", "1.mlp_c_fc"]
    assert backbone.sites[Site(1, "mlp_c_fc")] == (48, 12)
    with pytest.raises(ValueError, match=r"'c_proj' .*h\.0\.attn\.c_proj .*h\.0\.mlp\.c_proj"):
        HFBackbone(hf_model("gpt2"), ["c_proj"])
    with pytest.raises(ValueError, match=r"target_modules \['proj'\] .*c_attn, c_proj, c_fc"):
        HFBackbone(hf_model("gpt2"), ["proj", "c_attn"])
    with pytest.raises(ValueError, match=r"target_modules is 'c_attn'; give a list"):
        HFBackbone(hf_model("gpt2"), "c_attn")
