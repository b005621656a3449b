"""The kernels of flash-linear-attention behind our signatures, against the oracles.

Each test runs three times: with loops in the place of fla's functions (`support.fake_fla`); with the real ones in
Triton's interpreter, where the environment has TRITON_INTERPRET=1 and fla-core is installed, the only way to run them
on a CPU; and on a GPU.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prosg.backbones import BACKBONES
from prosg.ops import retention, wkv4, wkv7
from prosg.ops.fla import FLA, FlaLibrary, from_fla, matrix_type, to_fla
from prosg.ops.operation import Operation
from prosg.ops.pull import Pull
from prosg.ops.wkv4 import EMPTY_TOP, WKV4Memory, WKV4Pull
from support import fake_fla

Leaves = dict[str, Tensor]


class System(NamedTuple):
    """Where the functions come from."""

    name: str
    device: str
    exact: float
    """relative error of fp32"""
    narrow: torch.dtype = torch.bfloat16
    """type under autocast; in Triton's interpreter products of bf16 are wrong"""


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SYSTEMS = [
    pytest.param(System("fake", "cpu", 3e-5), id="fake"),
    pytest.param(
        System("interpreted", "cpu", 1e-4, torch.float16),
        id="interpreted",
        marks=pytest.mark.skipif(
            not (INTERPRETED and find_spec("fla") and find_spec("triton")), reason="TRITON_INTERPRET=1 and fla-core"
        ),
    ),
    pytest.param(
        System("gpu", "cuda", 1e-4 if os.environ.get("TRITON_F32_DEFAULT") == "ieee" else 5e-3),
        id="gpu",
        marks=pytest.mark.gpu,
    ),
]


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    if request.param.name == "gpu" and (reason := FLA.unavailable(torch.device("cuda"), torch.float32)):
        pytest.skip(reason)
    with warnings.catch_warnings():
        # fla warns of fp32 in the chunked form, and of a machine without a GPU.
        warnings.filterwarnings("ignore", module=r"fla\.|prosg\.ops\.wkv7", message=".*(float32|Triton).*")
        if request.param.name == "fake":
            fake_fla.install(monkeypatch)
        else:
            fake_fla.without_tuning(monkeypatch)
        if request.param.name == "interpreted":
            fake_fla.interpret(monkeypatch)
        yield request.param


class Recurrence(NamedTuple):
    """An operation as a function of named tensors."""

    oracle: str
    fixed: tuple[str, ...] = ()
    """inputs without a gradient"""


RECURRENCES = {
    "wkv4": Recurrence("scan", ("top",)),
    "wkv7": Recurrence("scan"),
    "retention": Recurrence("recurrent"),
}


def draw(name: str, batch: int, time: int, heads: int, size: int, *, empty: bool = False) -> Leaves:
    if name == "wkv4":
        channels = heads * size
        k, v = torch.randn(2, batch, time, channels)
        memory = {"num": torch.randn(batch, channels), "den": torch.rand(batch, channels) + 0.1}
        memory["top"] = torch.randn(batch, channels)
        if empty:
            memory = {"num": torch.zeros(batch, channels), "den": torch.zeros(batch, channels)}
            memory["top"] = torch.full((batch, channels), EMPTY_TOP)
        return {"w": -torch.randn(channels).exp(), "u": torch.randn(channels), "k": 1.5 * k, "v": v} | memory
    if name == "retention":
        q, k = torch.randn(2, batch, time, heads, size)
        v, memory = torch.randn(batch, time, heads, 2 * size), torch.randn(batch, heads, 2 * size, size)
        return {"q": q, "k": k * size**-0.5, "v": v, "memory": memory * (not empty)}
    r, k, v = torch.randn(3, batch, time, heads, size)
    direction = F.normalize(torch.randn(batch, time, heads, size), dim=-1)
    w, rate = -0.60653 * torch.rand(batch, time, heads, size), torch.rand(batch, time, heads, size)
    memory = torch.randn(batch, heads, size, size) * (not empty)
    return {"r": r, "w": w, "k": k, "v": v, "a": -direction, "b": direction * rate, "memory": memory}


def call(name: str, kernel: str, x: Leaves, lengths: Tensor | None = None) -> tuple[Tensor, Leaves]:
    """y, and the memory after it, as it is however it was normalised."""
    if name == "wkv4":
        memory = WKV4Memory(x["num"], x["den"], x["top"])
        y, (num, den, top) = wkv4.KERNELS[kernel](x["w"], x["u"], x["k"], x["v"], memory, lengths)
        return y, {"num": num * top.exp(), "den": den * top.exp()}
    if name == "retention":
        decay = 3 * torch.log1p(-(2.0 ** (-5 - torch.arange(x["q"].shape[2], device=x["q"].device))))
        y, memory = retention.KERNELS[kernel](x["q"], x["k"], x["v"], decay.to(x["q"]), x["memory"], lengths)
        return y, {"memory": memory}
    y, memory = wkv7.KERNELS[kernel](*(x[key] for key in "rwkvab"), x["memory"], lengths)
    return y, {"memory": memory}


def everything(name: str, kernel: str, x: Leaves, lengths: Tensor | None = None) -> Leaves:
    """Outputs, and the gradients of a loss that depends on all of them."""
    y, memory = call(name, kernel, x, lengths)
    outputs = {"y": y} | {f"{key} after": z for key, z in memory.items()}
    shuffle = torch.Generator().manual_seed(1)
    weights = [torch.randn(z.shape, generator=shuffle).to(z) for z in outputs.values()]
    loss = sum((z * weight).sum() for z, weight in zip(outputs.values(), weights, strict=True))
    learned = {key: z for key, z in x.items() if z.requires_grad}
    gradients = torch.autograd.grad(loss, list(learned.values()))
    return outputs | {f"d {key}": z for key, z in zip(learned, gradients, strict=True)}


def leaves(name: str, x: Leaves, dtype: torch.dtype, device: str) -> Leaves:
    fixed = RECURRENCES[name].fixed
    return {key: z.detach().to(device, dtype).clone().requires_grad_(key not in fixed) for key, z in x.items()}


def gaps(ours: Leaves, theirs: Leaves, least: float = 1.0) -> dict[str, float]:
    """Norm of the difference, relative to that of the oracle's, or to the least norm: some gradients are 0."""
    assert ours.keys() == theirs.keys()
    return {
        key: ((z.detach().cpu().double() - theirs[key]).norm() / theirs[key].norm().clamp(min=least)).item()
        for key, z in ours.items()
    }


SHAPES = [(2, 1, 2, 16), (2, 40, 2, 16), (1, 70, 1, 32)]


@pytest.mark.parametrize("empty", [True, False], ids=["from empty", "carried"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RECURRENCES)
def test_fla_is_the_oracle(name: str, shape: tuple[int, int, int, int], empty: bool, system: System) -> None:
    x = draw(name, *shape, empty=empty)
    ends = torch.randint(0, shape[1] + 1, shape[:1])
    for lengths in (None, ends, torch.full(shape[:1], shape[1])):
        theirs = everything(name, RECURRENCES[name].oracle, leaves(name, x, torch.float64, "cpu"), lengths)
        there = None if lengths is None else lengths.to(system.device)
        found = gaps(everything(name, "fla", leaves(name, x, torch.float32, system.device), there), theirs)
        assert all(gap <= system.exact for gap in found.values()), (lengths, found)


@pytest.mark.parametrize("name", ["wkv7", "retention"])
def test_under_autocast_products_are_narrow_and_the_state_is_wide(name: str, system: System) -> None:
    x = draw(name, 2, 70, 2, 32)
    # What the type cannot hold is rounded for the oracle, too.
    over_time = [key for key in x if key not in ("memory", "w")]
    x = {key: z.to(system.narrow).float() if key in over_time else z for key, z in x.items()}
    theirs = everything(name, RECURRENCES[name].oracle, leaves(name, x, torch.float64, "cpu"))
    with torch.autocast(system.device, system.narrow):
        ours = everything(name, "fla", leaves(name, x, torch.float32, system.device))
    assert all(z.dtype == torch.float32 for z in ours.values())
    found = gaps(ours, theirs)
    assert all(gap <= (1e-2 if key.startswith("d ") else 6e-3) for key, gap in found.items()), found
    assert max(found.values()) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", RECURRENCES)
def test_token_by_token_without_gradients(name: str, system: System) -> None:
    x = {key: z.to(system.device) for key, z in draw(name, 3, 6, 2, 16).items()}
    fixed = ("w", "u") if name == "wkv4" else ()
    over_time = [key for key in x if x[key].dim() > 2 and key not in ("memory", *fixed)]
    whole, after = call(name, RECURRENCES[name].oracle, x)
    stepwise = []
    for t in range(6):
        step = {key: x[key][:, t : t + 1] for key in over_time}
        if name == "wkv4":
            memory = WKV4Memory(x["num"], x["den"], x["top"])
            y, memory = wkv4.KERNELS["fla"](x["w"], x["u"], step["k"], step["v"], memory)
            x = {**x, **memory._asdict()}
        else:
            y, state = call(name, "fla", {**x, **step})
            x = {**x, **state}
        stepwise.append(y)
    torch.testing.assert_close(torch.cat(stepwise, 1), whole, rtol=1e-4, atol=1e-4)
    if name != "wkv4":
        torch.testing.assert_close(x["memory"], after["memory"], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", RECURRENCES)
def test_what_stands_behind_a_row_does_not_matter(name: str, system: System) -> None:
    x = draw(name, 3, 20, 2, 16, empty=True)
    lengths = torch.tensor([0, 7, 20])
    behind = {key: z.clone() for key, z in x.items()}
    for key in behind.keys() & set("qkrwvab"):
        if behind[key].dim() > 1:
            for row, length in enumerate(lengths):
                behind[key][row, length:] = torch.nan
    clean, dirty = (
        call(name, "fla", {key: z.to(system.device) for key, z in one.items()}, lengths.to(system.device))
        for one in (x, behind)
    )
    assert torch.equal(clean[0], dirty[0])
    assert not dirty[0][0].any()
    assert not dirty[0][1, 7:].any()
    for key, z in dirty[1].items():
        assert torch.equal(z, clean[1][key])
        assert not z[0].any()


@pytest.mark.parametrize(("name", "oracle"), [("rwkv4", "scan"), ("rwkv7", "scan"), ("retnet", "recurrent")])
def test_a_model_computes_the_same(name: str, oracle: str, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    if system.device == "cpu":
        monkeypatch.setattr(FLA, "device", "cpu")
        monkeypatch.setitem(vars(FLA), "missing", "")
    kind = BACKBONES[name]
    results = []
    for kernel, device in ((oracle, "cpu"), ("fla", system.device)):
        model = kind.model(kind.sizes["debug"], kernel)
        model.reset_parameters(torch.Generator().manual_seed(0))
        model.to(device)
        shuffle = torch.Generator().manual_seed(1)
        prompt, answer = (torch.randint(1, 256, (2, time), generator=shuffle).to(device) for time in (9, 5))
        first = model(prompt, lengths=torch.tensor([9, 4]).to(device))
        second = model(answer, first.state)
        last = model(answer[:, :1], second.state, logits="last")
        loss = second.logits.square().mean() + last.logits.square().mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
        named = dict(zip((name for name, _ in model.named_parameters()), gradients, strict=True))
        results.append({"second": second.logits, "last": last.logits} | named)
    theirs, ours = results
    found = gaps(ours, {key: z.detach().double() for key, z in theirs.items()}, least=1e-3)
    assert all(gap <= 10 * system.exact for gap in found.values()), found


def test_operands_have_the_type_that_pytorch_s_products_have() -> None:
    x, before = torch.zeros(1), torch.get_float32_matmul_precision()
    assert matrix_type(x) == torch.float32
    with torch.autocast("cpu", torch.float16):
        assert matrix_type(x) == torch.float16
    torch.set_float32_matmul_precision("medium")
    try:
        assert matrix_type(x) == torch.bfloat16
    finally:
        torch.set_float32_matmul_precision(before)


def test_decoding_does_not_copy_the_state() -> None:
    ours = torch.randn(2, 3, 4, 5)
    theirs = to_fla(ours)
    assert theirs.shape == (2, 3, 5, 4)
    assert torch.equal(from_fla(theirs), ours)
    assert to_fla(from_fla(theirs)).data_ptr() == theirs.data_ptr()


def test_a_pull_and_narrow_heads_are_left_to_another_kernel() -> None:
    x = draw("wkv7", 2, 5, 2, 16)
    inputs = [*(x[key] for key in "rwkvab"), x["memory"], None, Pull(x["memory"], torch.full((2, 2), -0.1))]
    with pytest.warns(RuntimeWarning, match="wkv7: fla has no kernel with an anchor; 'torch' runs instead"):
        ours = wkv7.KERNELS["fla"](*inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, wkv7.KERNELS["torch"](*inputs), strict=True))

    x = draw("retention", 2, 5, 2, 16)
    decay, pull = torch.tensor([-0.1, -0.2]), Pull(x["memory"], torch.full((2, 2), -0.1))
    inputs = [x["q"], x["k"], x["v"], decay, x["memory"], None, pull]
    with pytest.warns(RuntimeWarning, match="retention: fla has no kernel with an anchor; 'chunked'"):
        ours = retention.KERNELS["fla"](*inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, retention.KERNELS["chunked"](*inputs), strict=True))

    x = draw("wkv4", 2, 5, 2, 16)
    memory = WKV4Memory(x["num"], x["den"], x["top"])
    inputs = [x["w"], x["u"], x["k"], x["v"], memory, None, WKV4Pull(*memory, torch.full((2, 32), -0.1))]
    with pytest.warns(RuntimeWarning, match="wkv4: fla has no kernel with an anchor"):
        y, after = wkv4.KERNELS["fla"](*inputs)
    y_torch, after_torch = wkv4.KERNELS["torch"](*inputs)
    assert torch.equal(y, y_torch)
    assert torch.equal(after.num, after_torch.num)

    for name, size in (("wkv7", 8), ("retention", 4)):
        x = draw(name, 2, 5, 2, size)
        with pytest.warns(RuntimeWarning, match=f"{name}: fla has no kernel for heads narrower than 16"):
            y, _ = call(name, "fla", x)
        torch.testing.assert_close(y, call(name, RECURRENCES[name].oracle, x)[0])


def test_where_it_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    library, cuda = FlaLibrary(), torch.device("cuda")
    assert library.unavailable(torch.device("cpu"), torch.float32) == "it runs on a GPU, not on cpu"
    assert "not in torch.float64" in library.unavailable(cuda, torch.float64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert library.unavailable(cuda, torch.float32) == "there is no GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("prosg.ops.fla.find_spec", lambda name: None)
    assert "pip install 'prosg[gpu]'" in FlaLibrary().unavailable(cuda, torch.float32)
    monkeypatch.setattr("prosg.ops.fla.find_spec", lambda name: object())
    monkeypatch.setattr("prosg.ops.fla.import_module", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        FlaLibrary().unavailable(cuda, torch.float32)

    def broken(name: str) -> None:
        raise ImportError("no triton\nmore")

    monkeypatch.setattr("prosg.ops.fla.import_module", broken)
    reason = FlaLibrary().unavailable(cuda, torch.float32)
    assert "cannot be imported (no triton)" in reason
    assert "\n" not in reason


@pytest.mark.parametrize("operation", [wkv4.WKV4, wkv7.WKV7, retention.RETENTION], ids=lambda one: one.name)
def test_the_device_chooses(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setitem(vars(FLA), "missing", "")
    monkeypatch.setattr("prosg.ops.fla.version", lambda name: "0.6.0")
    assert operation.select("auto", cuda, torch.float32) is operation.kernels["fla"]
    assert operation.describe(cuda, torch.float32) == f"{operation.name}: fla (fla-core 0.6.0)"
    assert operation.select("auto", cuda, torch.float64) is operation.kernels[operation.default]
    with pytest.raises(ValueError, match=r"kernel 'fla' is not available: it runs on a GPU, not on cpu; available are"):
        operation.select("fla", torch.device("cpu"), torch.float32)
    monkeypatch.setitem(vars(FLA), "missing", "there is no GPU")
    assert operation.select("auto", cuda, torch.float32) is operation.kernels[operation.default]
    assert operation.describe(cuda, torch.float32) == f"{operation.name}: {operation.default} (fla: there is no GPU)"
