"""All blocks for one token in one call, against the same blocks in their ordinary form."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from prosg.backbones import native
from prosg.backbones.native import NativeBackbone
from prosg.backbones.quantised import quantise
from prosg.backbones.rwkv4 import RWKV4, RWKV4Config
from prosg.backbones.rwkv7 import RWKV7, RWKV7Config
from prosg.core.state import State
from prosg.core.update import LowRank, Site, Update, prepare_update
from prosg.ops.block import LIBRARY
from support.kernels import built

pytestmark = built(LIBRARY)
STEPS, BATCH, RANK = 6, 3, 4
# In bf16 the two round at other places, and random weights make much of that.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-1}
TAPS = ("inputs", "memory")

MODELS = {
    "rwkv4": lambda: RWKV4(RWKV4Config(vocab_size=50, hidden_size=48, num_layers=2)),
    "rwkv4 of other widths": lambda: RWKV4(RWKV4Config(50, 24, 2, attention_size=72, ffn_size=40)),
    "rwkv7": lambda: RWKV7(RWKV7Config(vocab_size=50, hidden_size=64, num_layers=3, head_size=32)),
    "rwkv7 of other widths": lambda: RWKV7(
        RWKV7Config(50, 40, 2, attention_size=48, ffn_size=70, head_size=16, gate_rank=17)
    ),
}
models = pytest.mark.parametrize("name", list(MODELS))
types = pytest.mark.parametrize("dtype", list(TOLERANCE))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name: str, dtype: torch.dtype) -> NativeBackbone:
    generator = torch.Generator().manual_seed(1)
    model = MODELS[name]()
    model.reset_parameters(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype).eval()


def draw_update(model: NativeBackbone, dtype: torch.dtype, shared: bool = False) -> Update:
    return prepare_update(
        {
            site: LowRank(
                0.2 * torch.randn(BATCH, RANK, inp), 0.2 * torch.randn(*(() if shared else (BATCH,)), out, RANK)
            )
            for site, (out, inp) in model.sites.items()
        },
        dtype,
    )


@torch.no_grad()
def write(model: NativeBackbone, **options: object) -> tuple[Tensor, State, list[Tensor]]:
    """Logits of some steps, the state after them, and what was tapped at the last."""
    tokens = torch.randint(0, 50, (BATCH, STEPS), generator=torch.Generator().manual_seed(2))
    state, logits = model(tokens[:, :2]).state, []
    output = None
    for t in range(2, STEPS):
        output = model(tokens[:, t : t + 1], state, taps=TAPS, **options)
        state = output.state
        logits.append(output.logits)
    assert output is not None
    return torch.cat(logits, 1), state, [*output.taps.inputs, *output.taps.memory]


def both(model: NativeBackbone, monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[object, object, int]:
    """The same steps in one call each and in the ordinary form, and how many were one call."""
    calls = []
    for module in ("rwkv4", "rwkv7"):
        path = f"prosg.backbones.{module}.run_blocks"
        run = import_module(f"prosg.backbones.{module}").run_blocks
        monkeypatch.setattr(path, lambda *args, run=run: (calls.append(args), run(*args)))
    fused = write(model, **options)
    monkeypatch.setattr(native, "can_run_blocks", lambda *args: False)
    return fused, write(model, **options), len(calls)


def assert_near(ours: object, theirs: object, tolerance: float) -> None:
    if isinstance(ours, Tensor):
        assert isinstance(theirs, Tensor) and ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-30)
    else:
        for mine, other in zip(ours, theirs, strict=True):  # type: ignore[call-overload]
            assert_near(mine, other, tolerance)


@models
@types
@pytest.mark.parametrize("how", ["bare", "update", "shared b", "anchor", "both"])
def test_the_call_equals_the_block(name: str, dtype: torch.dtype, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name, dtype)
    options: dict[str, object] = {}
    if how in ("update", "shared b", "both"):
        options["update"] = draw_update(model, dtype, how == "shared b")
    if how in ("anchor", "both"):
        target = model(torch.randint(0, 50, (BATCH, 9))).state
        keep = [torch.full((units,), -0.02) for units in model.anchor_units]
        options["anchor"] = model.make_anchor(target, keep, [0.02 + 0 * one for one in keep])
    fused, plain, calls = both(model, monkeypatch, **options)
    assert calls == STEPS - 2
    assert_near(fused, plain, TOLERANCE[dtype])


@models
@types
def test_int8(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name, dtype)
    quantise(model)
    fused, plain, calls = both(model, monkeypatch, update=draw_update(model, dtype))
    assert calls == STEPS - 2
    assert_near(fused, plain, TOLERANCE[dtype])


def test_an_update_of_some_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("rwkv4", torch.float32)
    update = {site: delta for site, delta in draw_update(model, torch.float32).items() if site.name != "value"}
    fused, plain, calls = both(model, monkeypatch, update=update)
    assert calls and calls == STEPS - 2
    assert_near(fused, plain, 1e-5)


class Wrapper(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.layer(x)


@pytest.mark.parametrize("name", ["rwkv4", "rwkv7"])
@pytest.mark.parametrize("change", ["wrapped", "hooked", "block hooked", "forward"])
def test_a_model_with_a_projection_or_block_that_is_not_plain_is_left_as_it_is(
    name: str, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(name, torch.float32)
    write(model)  # what was found out about the model before does not hold any more
    block = model.blocks[1]
    if change == "wrapped":
        block.att.key = Wrapper(block.att.key)
    elif change == "hooked":
        block.ffn.value.register_forward_hook(lambda module, args, y: y + 1)
    elif change == "block hooked":
        block.register_forward_hook(lambda module, args, output: output._replace(memory=output.memory + 1))
    else:
        block.att.key.forward = lambda x, forward=block.att.key.forward: 2 * forward(x)
    fused, plain, calls = both(model, monkeypatch)
    assert not calls
    assert_near(fused, plain, 0.0)


@models
@pytest.mark.parametrize("change", ["in place", "replaced", "moved", "narrowed and widened", "another norm"])
def test_changed_weights_are_seen_at_once(name: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name, torch.float32)
    before = write(model)[0]
    weight = model.blocks[1].att.value.weight
    with torch.no_grad():
        if change == "in place":
            weight.mul_(1.5)
        elif change == "replaced":
            model.blocks[1].att.value.weight = nn.Parameter(1.5 * weight)
        elif change == "moved":
            weight.data = 1.5 * weight
        elif change == "narrowed and widened":
            model.to(torch.bfloat16)
            write(model)
            model.to(torch.float32)
        else:
            model.blocks[0].ln1 = nn.LayerNorm(model.config.hidden_size)
    fused, plain, calls = both(model, monkeypatch)
    assert calls == STEPS - 2
    assert_near(fused, plain, 1e-5)
    assert not torch.equal(fused[0], before)


@models
def test_an_update_never_gets_anothers_factors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name, torch.float32)
    for _ in range(3):  # an update that is freed leaves its place, and its tensors', to the next
        fused, plain, _ = both(model, monkeypatch, update=draw_update(model, torch.float32))
        monkeypatch.undo()
        assert_near(fused, plain, 1e-5)
    update = draw_update(model, torch.float32)
    before = write(model, update=update)[0]
    next(iter(update.values())).a.mul_(2.0)
    fused, plain, _ = both(model, monkeypatch, update=update)
    assert_near(fused, plain, 1e-5)
    assert not torch.equal(fused[0], before)


def test_an_update_of_other_rows_or_sites_is_refused_at_every_step() -> None:
    model = make("rwkv4", torch.float32)
    update = draw_update(model, torch.float32)
    with torch.no_grad():
        model(torch.zeros(BATCH, 1, dtype=torch.int64), update=update)
        for _ in range(2):
            with pytest.raises(ValueError, match="a has shape"):
                model(torch.zeros(BATCH + 1, 1, dtype=torch.int64), update=update)
            with pytest.raises(ValueError, match="unknown site"):
                model(
                    torch.zeros(BATCH, 1, dtype=torch.int64),
                    update=prepare_update({**update, Site(9, "key"): update[Site(0, "key")]}, torch.float32),
                )


@models
@torch.no_grad()
def test_a_copy_of_a_state_lies_elsewhere(name: str) -> None:
    model = make(name, torch.float32)
    token = torch.zeros(BATCH, 1, dtype=torch.int64)
    state = model(token, model(token).state).state
    expected = model(token, state).logits
    for copied in (copy.copy(state), copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert type(copied) is tuple
        assert torch.equal(model(token, copied).logits, expected)
    other = make(name, torch.float32)
    with torch.no_grad():
        other.blocks[0].att.key.weight.mul_(2.0)
    changed = other(token, copy.deepcopy(state)).logits
    assert torch.equal(other(token, state).logits, changed) and not torch.equal(changed, expected)


@torch.no_grad()
def test_a_state_of_other_rows_is_refused() -> None:
    model = make("rwkv4", torch.float32)
    state = model(torch.zeros(BATCH, 1, dtype=torch.int64)).state
    with pytest.raises((ValueError, TypeError)):
        model(torch.zeros(BATCH + 2, 1, dtype=torch.int64), state)


@torch.no_grad()
def test_a_model_that_is_gone_leaves_nothing_behind() -> None:
    model = make("rwkv4", torch.float32)
    update = draw_update(model, torch.float32)
    model(torch.zeros(BATCH, 1, dtype=torch.int64), update=update)
    weight, factor = weakref.ref(model.blocks[0].att.key.weight), weakref.ref(update)
    del update
    gc.collect()
    assert factor() is None and weight() is not None
    del model
    gc.collect()
    assert weight() is None


def test_rows_of_different_ranks_or_an_unprepared_update_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("rwkv4", torch.float32)
    update = {site: LowRank(d.a, d.b.contiguous()) for site, d in draw_update(model, torch.float32).items()}
    fused, plain, calls = both(model, monkeypatch, update=update)
    assert not calls
    assert_near(fused, plain, 1e-5)


def test_a_chosen_kernel_more_threads_and_gradients_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("rwkv4", torch.float32)
    model.kernel = "scan"
    assert not both(model, monkeypatch)[2]
    monkeypatch.undo()
    model.kernel = "auto"
    torch.set_num_threads(2)
    assert both(model, monkeypatch)[2]  # a narrow model
    monkeypatch.undo()
    monkeypatch.setattr("prosg.ops.block.NARROW", 40)
    assert not both(model, monkeypatch)[2]
    torch.set_num_threads(1)
    monkeypatch.undo()
    logits = model(torch.tensor([[3]])).logits
    logits.sum().backward()
    assert model.blocks[0].att.key.weight.grad is not None


@models
@pytest.mark.parametrize("narrow", [False, True])
@torch.no_grad()
def test_a_row_does_not_depend_on_the_others_to_the_last_bit(name: str, narrow: bool) -> None:
    model = make(name, torch.float32)
    if narrow:
        quantise(model)
    tokens = torch.randint(0, 50, (32, 8))
    start = model(tokens[:, :4]).state

    def write_rows(count: int) -> Tensor:
        state, logits = tuple(type(layer)(*(leaf[:count] for leaf in layer)) for layer in start), []
        for t in range(4, 8):
            output = model(tokens[:count, t : t + 1], state)
            state = output.state
            logits.append(output.logits)
        return torch.cat(logits, 1)

    together = write_rows(32)
    for count in (1, 3, 17):
        assert torch.equal(write_rows(count), together[:count])
