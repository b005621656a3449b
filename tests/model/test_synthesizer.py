"""The synthesis module against its equations, written out here row by row, and its sizes, starts and refusals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prosg.backbones.base import Taps
from prosg.backbones.rwkv4 import RWKV4, RWKV4_SIZES
from prosg.backbones.rwkv7 import RWKV7, RWKV7_SIZES
from prosg.core.update import Site
from prosg.model.config import PRESETS, ProSGConfig
from prosg.model.prosg import ProSG
from prosg.model.synthesizer import LARGE, Synthesizer
from support.models import MODULES, SYSTEMS, TINY, assert_near, assert_same_update, live_backbone, live_model, serves

systems = pytest.mark.parametrize(("name", "module"), SYSTEMS)

LENGTHS = torch.tensor([7, 1, 4])
VALID = torch.arange(7) < LENGTHS.unsqueeze(1)


def make_taps(backbone: Any, lengths: Tensor = LENGTHS, seed: int = 0) -> Taps:
    generator = torch.Generator().manual_seed(seed)
    batch, time = len(lengths), int(lengths.max())

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = tuple(random(batch, time, width) for width, _ in backbone.tap_widths)
    memory = tuple(random(batch, time, width) for _, width in backbone.tap_widths)
    last = tuple(x[torch.arange(batch), lengths - 1] for x in inputs)
    return Taps(last, inputs, memory)


def layer_norm(h: Tensor, norm: Any) -> Tensor:
    centred = h - h.mean()
    return norm.weight * centred / (centred.square().mean() + 1e-5).sqrt() + norm.bias


def transform(h: Tensor, stack: Any) -> Tensor:
    """S: blocks h + LN(L2 relu(L1 h)) (eq. 18)."""
    for one, _, two, norm in stack.blocks:
        inner = two.weight @ torch.clamp(one.weight @ h + one.bias, min=0) + two.bias
        h = h + layer_norm(inner, norm)
    return h


def paper_oracle(layer: Any, x: Tensor) -> dict[str, Tensor]:
    """dW of one row from x (E,), the time-mix input at the prompt's last token."""
    n, found = layer.config.rank, {}
    for position, (name, (out, inp)) in enumerate(layer.shapes.items()):
        h = torch.cat([x] * n) + layer.slots[position]  # eq. 13-16
        a = transform(h, layer.stack).reshape(n, inp)  # eq. 18
        b = layer.base_b[name].mT  # (O, n), learned
        assert b.shape == (out, n)
        found[name] = layer.config.alpha * b @ a  # eq. 20
    return found


def plus_oracle(layer: Any, x: Tensor, m: Tensor) -> dict[str, Tensor]:
    """dW of one row from x (T, E) and m (T, C), the valid positions only."""
    config, n = layer.config, layer.config.rank
    u = x @ layer.from_input.weight.mT + layer.from_input.bias
    if config.memory_tap:
        u = u + m @ layer.from_memory.weight.mT
    d = u.shape[1]
    slots = []
    for slot in range(n * len(layer.shapes)):
        read = u[-1]
        if config.reads == "all_positions":
            score = u @ layer.queries[slot] / math.sqrt(d)
            if config.log_length:
                score = score * math.log(len(u)) / math.log(config.reference_length)
            read = (score.exp() / score.exp().sum()) @ u
        h = transform(read + (layer.slots[slot] if config.state_embedding else 0), layer.stack)
        slots.append(layer_norm(h, layer.norm) if config.final_norm else h)
    found = {}
    for position, (name, (out, inp)) in enumerate(layer.shapes.items()):
        dw = torch.zeros(out, inp, dtype=u.dtype)
        for read in range(n):
            h = slots[position * n + read]
            a = (layer.base_a[name][read] + layer.map_a[name].weight @ h + layer.map_a[name].bias) / math.sqrt(inp)
            b = layer.base_b[name][read]
            if config.synthesize == "both":
                b = b + layer.map_b[name].weight @ h + layer.map_b[name].bias
            dw = dw + torch.outer(b, a)
        found[name] = config.alpha * dw
    return found


def static_oracle(layer: Any) -> dict[str, Tensor]:
    return {
        name: layer.config.alpha * layer.base_b[name].mT @ layer.base_a[name] / math.sqrt(inp)
        for name, (_, inp) in layer.shapes.items()
    }


VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "paper": ("rwkv4", "paper", {}),
    "paper, rank 3": ("rwkv4", "paper, rank 3", {}),
    "paper, two blocks, hidden 5, alpha .5": ("rwkv4", "paper", {"blocks": 2, "hidden": 5, "alpha": 0.5}),
    "paper, shared stack": ("rwkv4", "paper", {"share_stack": True}),
    "paper, two projections": ("rwkv4", "paper", {"target_modules": ("value", "output")}),
    "plus": ("rwkv4", "plus", {}),
    "plus, own widths": ("rwkv4, own widths", "plus", {}),
    "plus, no memory tap, no log, no norm": (
        "rwkv4",
        "plus",
        {"memory_tap": False, "log_length": False, "final_norm": False},
    ),
    "plus, shared stack, learned b, rank 2": ("rwkv4", "plus", {"share_stack": True, "synthesize": "a", "rank": 2}),
    "plus, d 5, hidden 9, one block": ("rwkv4", "plus", {"bottleneck": 5, "hidden": 9, "blocks": 1, "alpha": 2.0}),
    "plus, the last token alone": ("rwkv4", "plus", {"reads": "last_position"}),
    "plus, no state embedding, no stack": ("rwkv4", "plus", {"state_embedding": False, "blocks": 0}),
    "static": ("rwkv4, own widths", "static", {}),
}


@pytest.mark.parametrize(("name", "module", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_it_computes_its_equations(name: str, module: str, changes: dict[str, Any]) -> None:
    model = live_model(name, module, **changes)
    synthesizer, taps = model.synthesizer, make_taps(model.backbone)
    assert synthesizer is not None
    with torch.no_grad():
        update = synthesizer(taps, VALID)
        assert set(update) == {s for s in model.backbone.sites if s.name in synthesizer.config.target_modules}
        for i, layer in enumerate(synthesizer.layers):
            for row, length in enumerate(LENGTHS.tolist()):
                if synthesizer.config.reads == "last_input":
                    expected = paper_oracle(layer, taps.last[i][row])
                elif synthesizer.config.reads_positions:
                    expected = plus_oracle(layer, taps.inputs[i][row, :length], taps.memory[i][row, :length])
                else:
                    expected = static_oracle(layer)
                for projection, dw in expected.items():
                    assert_near(update[Site(i, projection)].dense()[row], dw, 1e-12)
                    assert float(dw.abs().max()) > 1e-3


@systems
@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 4), (5, 1, 1), (2, 2, 2, 1)])
def test_reading_in_chunks_equals_reading_at_once(name: str, module: str, sizes: tuple[int, ...]) -> None:
    model = live_model(name, module)
    synthesizer, taps = model.synthesizer, make_taps(model.backbone)
    assert synthesizer is not None
    with torch.no_grad():
        reads, start = synthesizer.init(LENGTHS), 0
        for size in sizes:
            end = min(start + size, 7)
            # A row whose prompt has ended keeps showing its last input.
            at = (LENGTHS.clamp(max=end) - 1).clamp(min=0)
            piece = Taps(
                tuple(x[torch.arange(3), at] for x in taps.inputs),
                tuple(x[:, start:end] for x in taps.inputs),
                tuple(x[:, start:end] for x in taps.memory),
            )
            reads = synthesizer.read(reads, piece, VALID[:, start:end])
            start = end
        assert_same_update(synthesizer.finish(reads), synthesizer(taps, VALID), 1e-12)


@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 4), (5, 1, 1)])
def test_a_module_left_the_last_token_reads_it_in_whichever_chunk_it_stands(sizes: tuple[int, ...]) -> None:
    model = live_model("rwkv4", "plus", reads="last_position")
    synthesizer, taps = model.synthesizer, make_taps(model.backbone)
    assert synthesizer is not None
    assert not any(name.endswith("queries") for name, _ in synthesizer.named_parameters())
    whole = synthesizer(taps, VALID)
    reads, start = synthesizer.init(LENGTHS), 0
    for size in sizes:
        piece = Taps((), *(tuple(x[:, start : start + size] for x in part) for part in (taps.inputs, taps.memory)))
        reads = synthesizer.read(reads, piece, VALID[:, start : start + size])
        start += size
    assert_same_update(synthesizer.finish(reads), whole, 1e-12)
    sum(delta.dense().sum() for delta in whole.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in synthesizer.parameters())
    for x in (*taps.inputs, *taps.memory):
        x[torch.arange(7) != (LENGTHS - 1).unsqueeze(1)] += 1.0
    assert_same_update(synthesizer(taps, VALID), whole, 0.0)
    with pytest.raises(ValueError, match="window.*last_position.*all_positions"):
        model.encode(torch.ones(1, 4, dtype=torch.int64), window=2)
    with pytest.raises(ValueError, match="last_position.*attends to nothing"):
        synthesizer.attention(taps, VALID)


def test_reading_needs_memory_of_fixed_size() -> None:
    model = live_model("rwkv4", "plus")
    assert model.synthesizer is not None
    sizes = []
    for length in (2, 50):
        lengths = torch.tensor([length])
        reads = model.synthesizer.init(lengths)
        valid = torch.ones(1, length, dtype=torch.bool)
        reads = model.synthesizer.read(reads, make_taps(model.backbone, lengths), valid)
        sizes.append(sum(leaf.numel() for layer in reads.layers for leaf in layer if leaf is not None))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_what_stands_beyond_a_prompt_has_no_influence_on_values_or_gradients(size: float) -> None:
    model = live_model("rwkv4", "plus")
    synthesizer, taps = model.synthesizer, make_taps(model.backbone)
    assert synthesizer is not None

    def results(given: Taps) -> list[Tensor]:
        update = synthesizer(given, VALID)
        dense = [delta.dense() for delta in update.values()]
        loss = torch.stack([d.square().mean() for d in dense]).sum()
        return [d.detach() for d in dense] + list(torch.autograd.grad(loss, list(synthesizer.parameters())))

    beyond = ~VALID.unsqueeze(2)
    large = Taps(
        taps.last,
        tuple(torch.where(beyond, size * torch.randn_like(x), x) for x in taps.inputs),
        tuple(torch.where(beyond, size * torch.randn_like(x), x) for x in taps.memory),
    )
    for ours, theirs in zip(results(large), results(taps), strict=True):
        assert_near(ours, theirs, 1e-12)


def test_scores_far_apart_do_not_overflow() -> None:
    """The running maximum: a chunk whose scores are far above or below those before it."""
    model = live_model("rwkv4", "plus")
    synthesizer, taps = model.synthesizer, make_taps(model.backbone)
    assert synthesizer is not None
    scale = torch.tensor([1e-3, 1.0, 1e4, 1.0, 1e5, 1e-3, 1.0]).view(1, 7, 1)
    wild = Taps(taps.last, tuple(x * scale for x in taps.inputs), tuple(x * scale for x in taps.memory))
    reads = synthesizer.init(LENGTHS)
    with torch.no_grad():
        for t in range(7):
            piece = Taps((), tuple(x[:, t : t + 1] for x in wild.inputs), tuple(x[:, t : t + 1] for x in wild.memory))
            reads = synthesizer.read(reads, piece, VALID[:, t : t + 1])
        assert_same_update(synthesizer.finish(reads), synthesizer(wild, VALID), 1e-12)


@pytest.mark.parametrize("preset", ["paper", "plus", "static"])
def test_nothing_is_changed_at_the_start(preset: str) -> None:
    backbone = live_backbone("rwkv4", torch.float32)
    synthesizer = Synthesizer(ProSGConfig.from_preset(preset), backbone.sites, backbone.tap_widths)
    taps = Taps(*(tuple(x.float() for x in tap) for tap in make_taps(backbone)))
    for delta in synthesizer(taps, VALID).values():
        assert delta.dense().count_nonzero() == 0
        assert delta.a.dtype == delta.b.dtype == torch.float32
        assert delta.a.abs().max() > 0.05  # or nothing could ever be learned


def sizes(width: int, layers: int) -> tuple[dict[Site, tuple[int, int]], tuple[tuple[int, int], ...]]:
    names = ("key", "value", "receptance", "output")
    return {Site(i, name): (width, width) for i in range(layers) for name in names}, ((width, width),) * layers


def count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_of_the_presets() -> None:
    """The figures that are quoted: plus at E 96, L 3, and the paper's stacks at 0.4B for n 1, 2, 3."""
    assert count(Synthesizer(PRESETS["plus"], *sizes(96, 3))) == 102_168
    assert count(Synthesizer(PRESETS["static"], *sizes(96, 3))) == 3 * 4 * 2 * 64 * 96
    with torch.device("meta"):
        for n, millions in ((1, 50), (2, 201), (3, 453)):
            module = Synthesizer(ProSGConfig.from_preset("paper", rank=n), *sizes(1024, 24))
            stacks = sum(p.numel() for layer in module.layers for p in layer.stack.parameters() if p.dim() == 2)
            assert stacks == 24 * 2 * (n * 1024) ** 2
            assert round(stacks / 1e6) == millions


PUBLISHED = [(RWKV4, size) for size in RWKV4_SIZES.values()] + [(RWKV7, size) for size in RWKV7_SIZES.values()]


@pytest.mark.parametrize(("kind", "size"), PUBLISHED, ids=[f"{k.__name__} {s.hidden_size}" for k, s in PUBLISHED])
def test_the_module_has_at_most_a_tenth_of_a_large_backbone(kind: Any, size: Any) -> None:
    with torch.device("meta"):
        model = ProSG(kind(size), PRESETS["plus"])
    assert model.synthesizer is not None
    total, own, d = count(model.backbone), count(model.synthesizer), model.synthesizer.config.bottleneck
    if total < LARGE:
        assert d == size.hidden_size // 4
        return
    assert 0.09 * total < own <= total // 10
    assert d % 8 == 0 and 128 <= d < size.hidden_size // 4
    # What is named, as in every saved adapter, stays.
    with torch.device("meta"):
        named = ProSGConfig.from_preset("plus", bottleneck=size.hidden_size // 4)
        assert count(Synthesizer(named, *shapes(model), backbone_size=total)) > total // 10


def shapes(model: ProSG) -> tuple[Any, Any]:
    return model.backbone.sites, model.backbone.tap_widths


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_stack": True, "hidden": 50, "blocks": 3},
        {"memory_tap": False, "state_embedding": False, "final_norm": False, "synthesize": "a", "rank": 3},
        {"target_modules": ("key", "output")},
        {"reads": "last_position"},
    ],
)
def test_the_bottleneck_is_the_widest_that_fits(changes: dict[str, Any]) -> None:
    config = ProSGConfig.from_preset("plus", **changes)
    names = ("key", "value", "receptance", "output")
    sites, widths = {Site(i, name): (8000, 9000) for i in range(3) for name in names}, ((320, 480),) * 3
    for size in (LARGE, LARGE + 10, 2 * LARGE):
        with torch.device("meta"):
            found = Synthesizer(config, sites, widths, backbone_size=size)
            more = dataclasses.replace(found.config, bottleneck=found.config.bottleneck + 8)
            wider = Synthesizer(more, sites, widths)
        assert count(found) <= size // 10
        assert found.config.bottleneck == 80 or count(wider) > size // 10


def test_a_rank_too_large_for_a_tenth_leaves_the_least_width() -> None:
    sites, widths = sizes(1024, 24)
    config = ProSGConfig.from_preset("plus", rank=2000)
    with torch.device("meta"):
        assert Synthesizer(config, sites, widths, backbone_size=LARGE).config.bottleneck == 8


def test_initial_spreads_of_plus() -> None:
    E = 96
    layer = Synthesizer(PRESETS["plus"], *sizes(E, 1), generator_seed=0).layers[0]
    d = E // 4
    one, _, two, norm = layer.stack.blocks[0]
    for weight, expected in (
        (layer.from_input.weight, E**-0.5),
        (layer.from_memory.weight, (3 * E) ** -0.5),
        (layer.queries, 1.0),
        (layer.slots, 0.02),
        (one.weight, d**-0.5),
        (two.weight, d**-0.5),
        (layer.base_a["key"], 1.0),
        (layer.map_a["value"].weight, (3 * d) ** -0.5),
    ):
        assert float(weight.detach().std()) == pytest.approx(expected, rel=0.1)
    zero = (layer.from_input.bias, one.bias, two.bias, layer.base_b["key"])
    zero += (layer.map_b["key"].weight, layer.map_b["key"].bias, layer.map_a["key"].bias)
    assert all(p.count_nonzero() == 0 for p in zero)
    assert all(torch.equal(n.weight, torch.ones(d)) for n in (norm, layer.norm))


def test_a_seed_fixes_the_start_and_leaves_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, two = (Synthesizer(PRESETS["plus"], *sizes(8, 1), generator_seed=3) for _ in range(2))
    other = Synthesizer(PRESETS["plus"], *sizes(8, 1), generator_seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.layers[0].queries, other.layers[0].queries)


def test_it_says_what_it_wants_to_be_shown() -> None:
    backbone = live_backbone("rwkv4")
    wanted = {name: Synthesizer(config, backbone.sites, backbone.tap_widths).taps for name, config in MODULES.items()}
    assert wanted["paper"] == wanted["paper, rank 3"] == ("last",)
    assert wanted["plus"] == ("inputs", "memory")
    assert wanted["static"] == ()
    no_memory = ProSGConfig.from_preset("plus", memory_tap=False)
    assert Synthesizer(no_memory, backbone.sites, backbone.tap_widths).taps == ("inputs",)


def test_paper_names_the_site_that_it_cannot_serve() -> None:
    backbone = live_backbone("rwkv4, own widths")
    assert not serves("paper", "rwkv4, own widths")
    with pytest.raises(ValueError, match="site 0.output.*20.*12.*'plus'"):
        Synthesizer(PRESETS["paper"], backbone.sites, backbone.tap_widths)
    # The sites that it does serve may still be asked for.
    three = ProSGConfig.from_preset("paper", target_modules=("key", "value", "receptance"))
    assert len(Synthesizer(three, backbone.sites, backbone.tap_widths).sites) == 3 * 3


def test_no_projections_named_means_all_of_the_backbone() -> None:
    backbone = live_backbone("rwkv4")
    every = Synthesizer(PRESETS["plus"], backbone.sites, backbone.tap_widths)
    assert every.sites == backbone.sites
    assert every.config.target_modules == ("key", "value", "receptance", "output")
    again = Synthesizer(every.config, backbone.sites, backbone.tap_widths)
    assert again.config == every.config


def test_unknown_projections_are_named() -> None:
    backbone = TINY["rwkv4"].make(9)
    config = ProSGConfig.from_preset("plus", target_modules=("key", "gate"))
    with pytest.raises(ValueError, match="target_modules.*gate.*'key', 'output'"):
        Synthesizer(config, backbone.sites, backbone.tap_widths)
