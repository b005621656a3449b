"""Figures about updates, against dense matrices; attention, against the reads that it sums up to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prosg.core.tensors import valid_mask
from prosg.core.update import LowRank, Site
from prosg.inspection.render import attention_heat_map, comparison_table, plot_attention, prompt_labels
from prosg.inspection.updates import (
    UpdateComparison,
    compare_updates,
    inner_products,
    over_all_sites,
    prompt_attention,
    singular_values,
)
from prosg.model.layer_synthesizer import LayerReads
from support.models import SYSTEMS, assert_near, att_weight, live_backbone, live_model, tokens

PROMPT, LENGTHS = tokens(3, 9), torch.tensor([9, 4, 1])


@pytest.mark.parametrize(("backbone", "module"), SYSTEMS)
def test_figures_are_those_of_the_dense_matrices(backbone: str, module: str) -> None:
    model = live_model(backbone, module)
    update = model.encode(PROMPT, LENGTHS).update
    compared = compare_updates(model.backbone, update)
    assert list(compared) == list(update)
    whole = []
    for site, comparison in compared.items():
        dense, weight = update[site].dense(), att_weight(model.backbone, site)
        values = torch.linalg.svdvals(dense)
        assert_near(comparison.singular, values[:, : comparison.singular.shape[1]], 1e-10)
        assert float(values[:, comparison.singular.shape[1] :].abs().sum()) < 1e-10 * float(values.max())
        flat = dense.flatten(1)
        assert_near(comparison.relative, flat.norm(dim=1) / weight.norm(), 1e-10)
        assert_near(comparison.cosine, torch.cosine_similarity(flat.unsqueeze(0), flat.unsqueeze(1), dim=2), 1e-10)
        whole.append(flat)
    flat = torch.cat(whole, 1)
    everything = over_all_sites(compared)
    assert_near(everything.cosine, torch.cosine_similarity(flat.unsqueeze(0), flat.unsqueeze(1), dim=2), 1e-10)
    weights = torch.cat([att_weight(model.backbone, site).flatten() for site in update])
    assert_near(everything.relative, flat.norm(dim=1) / weights.norm(), 1e-10)
    assert everything.singular.shape == (3, 0)


def test_an_update_that_overflowed_is_refused() -> None:
    model = live_model("rwkv4", "plus")
    update = dict(model.encode(PROMPT, LENGTHS).update or {})
    site = next(iter(update))
    update[site] = LowRank(update[site].a.index_fill(1, torch.tensor([0]), float("nan")), update[site].b)
    with pytest.raises(ValueError, match="NaN or infinite"):
        compare_updates(model.backbone, update)


def test_a_rank_beyond_the_widths_and_an_update_of_nothing() -> None:
    delta = LowRank(torch.randn(2, 9, 4), torch.randn(2, 5, 9))
    assert_near(singular_values(delta), torch.linalg.svdvals(delta.dense().double()), 1e-6)
    nothing = LowRank(torch.randn(2, 3, 4), torch.zeros(5, 3))
    zero = UpdateComparison(1.0, inner_products(nothing), singular_values(nothing))
    assert not zero.relative.any() and not zero.cosine.any() and not zero.singular.any()


@pytest.mark.parametrize("backbone", ["rwkv4", "rwkv7", "retnet, own widths"])
def test_attention_is_what_the_reads_sum_up(backbone: str) -> None:
    model = live_model(backbone, "plus")
    seen = prompt_attention(model, PROMPT, LENGTHS)
    assert seen is not None and list(seen) == list(model.encode(PROMPT, LENGTHS).update)
    output = model.backbone(PROMPT, lengths=LENGTHS, taps=model.synthesizer.taps)
    valid = valid_mask(LENGTHS, 9)
    reads = model.synthesizer.read(model.synthesizer.init(LENGTHS), output.taps, valid)
    for i, (layer, read) in enumerate(zip(model.synthesizer.layers, reads.layers, strict=True)):
        assert isinstance(read, LayerReads)
        weights = torch.cat([seen[Site(i, name)] for name in layer.names], 1)
        assert not weights.masked_select(~valid.unsqueeze(1)).any()
        assert_near(weights.sum(2), torch.ones_like(weights[:, :, 0]), 1e-12)
        u, _ = layer.score(output.taps, i, LENGTHS)
        assert_near(weights @ u, read.value / read.total.unsqueeze(2), 1e-10)


@pytest.mark.parametrize("module", [None, "paper", "static"])
def test_modules_without_reads(module: str | None) -> None:
    model = live_model("rwkv4", module)
    assert prompt_attention(model, PROMPT, LENGTHS) is None
    if module is not None:
        output = model.backbone(PROMPT, taps=("inputs", "memory"))
        with pytest.raises(ValueError, match="module.reads"):
            model.synthesizer.attention(output.taps, torch.ones_like(PROMPT, dtype=torch.bool))


def test_the_table_has_a_line_per_site_and_prompt() -> None:
    model = live_model("rwkv4", "plus")
    compared = compare_updates(model.backbone, model.encode(PROMPT, LENGTHS).update)
    lines = list(comparison_table(compared))
    assert len(lines) == 1 + 3 * (len(compared) + 1)
    assert "cosine with A, B, C" in lines[0]
    site = compared[Site(0, "key")]
    start = next(i for i, line in enumerate(lines) if line.startswith("0.key"))
    assert f"{site.relative[1]:.4f}" in lines[start + 1] and f"{site.cosine[1, 2]:.3f}" in lines[start + 1]
    assert f"{site.singular[1, 0]:.3g}" in lines[start + 1]
    assert lines[-3].startswith("all ")
    alone = list(comparison_table(compare_updates(model.backbone, model.encode(PROMPT[:1]).update)))
    assert "cosine" not in alone[0]


def test_the_heat_map_shows_the_most_read_tokens() -> None:
    seen = {Site(0, "key"): torch.zeros(1, 2, 50), Site(1, "key"): torch.zeros(1, 2, 50)}
    for weights in seen.values():
        weights[0, :, 7], weights[0, :, 30], weights[0, :, 3] = 0.75, 0.2, 0.05
    names = [f"t{i}" for i in range(50)]
    names[7], names[30] = "\n", " caf\u00e9\x00"
    lines = list(attention_heat_map(seen, 0, names, most=2))
    assert [line.split()[:3] for line in lines[1:3]] == [["7", "\\n", "75.0%"], ["30", "\u2423caf\u00e9\\x00", "20.0%"]]
    assert lines[1].endswith(" @ @")  # the largest of both layers
    assert "48" in lines[3] and "5.0%" in lines[3]
    assert len(list(attention_heat_map(seen, 0, names, most=0))) == 51
    assert all(len(line.splitlines()) == 1 for line in lines)


def test_a_picture_is_drawn_whole(tmp_path: Path) -> None:
    model = live_model("rwkv4", "plus")
    seen = prompt_attention(model, PROMPT[:2], LENGTHS[:2])
    assert seen is not None
    plot_attention(tmp_path / "x.png", seen, [["$a$", "_b", "^", *"cdefgh"], ["\n", " ", "x", "y"]])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_more_prompts_than_letters() -> None:
    assert prompt_labels(2) == ["A", "B"]
    with pytest.raises(ValueError, match="27 .*26"):
        prompt_labels(27)


def test_no_dense_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = live_backbone("rwkv4")
    monkeypatch.setattr(LowRank, "dense", None)
    update = {site: LowRank(torch.randn(2, 2, inp), torch.randn(out, 2)) for site, (out, inp) in backbone.sites.items()}
    assert len(compare_updates(backbone, update)) == len(backbone.sites)
