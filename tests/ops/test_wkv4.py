"""RWKV-4's recurrence: the oracle against transformers, every kernel against the oracle."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

from prosg.ops.wkv4 import EMPTY_TOP, KERNELS, WKV4Memory
from prosg.ops.wkv4.compiled import LIBRARY, PARALLEL_FROM
from support.kernels import compare, fast, with_threads
from support.models import TOLERANCE

FAST = fast(LIBRARY)


class Inputs(NamedTuple):
    w: Tensor
    u: Tensor
    k: Tensor
    v: Tensor
    num: Tensor
    den: Tensor
    top: Tensor
    lengths: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Inputs:
        """Of another type, in leaves of their own."""
        leaves = [x.detach().to(dtype).clone().requires_grad_() for x in self[:6]]
        return Inputs(*leaves, self.top.to(dtype), self.lengths)


def draw(batch: int, time: int, channels: int, *, empty: bool = False, size: float = 1.5) -> Inputs:
    """fp32 values, so that both types begin with the same numbers."""
    w, u = -torch.randn(channels).exp(), torch.randn(channels)
    k, v = torch.randn(batch, time, channels) * size, torch.randn(batch, time, channels)
    if empty:
        memory = WKV4Memory(*torch.zeros(2, batch, channels), torch.full((batch, channels), EMPTY_TOP))
    else:
        memory = WKV4Memory(
            torch.randn(batch, channels), torch.rand(batch, channels) + 0.1, torch.randn(batch, channels)
        )
    return Inputs(w, u, k, v, *memory)


def call(name: str, x: Inputs) -> tuple[Tensor, WKV4Memory]:
    return KERNELS[name](*x[:4], WKV4Memory(*x[4:7]), x.lengths)


def as_memory(memory: WKV4Memory) -> Tensor:
    """Mean and log-weight: the true memory, however it was normalised. 0 where it is empty."""
    written = memory.den > 0
    den = torch.where(written, memory.den, 1)
    return torch.stack([memory.num / den, torch.where(written, den.log() + memory.top, 0)])


def with_gradients(y: Tensor, after: WKV4Memory, x: Inputs) -> dict[str, Tensor]:
    """Outputs, and the gradients of a loss that depends on y and on the true memory."""
    memory = as_memory(after)
    shuffle = torch.Generator().manual_seed(1)
    weights = [torch.randn(z.shape, generator=shuffle).to(z.dtype) for z in (y, memory)]
    loss = (y * weights[0]).sum() + (memory * weights[1]).sum()
    gradients = torch.autograd.grad(loss, x[:6])
    return {"y": y, "memory": memory} | dict(zip(Inputs._fields, gradients, strict=False))


def everything(name: str, x: Inputs) -> dict[str, Tensor]:
    return with_gradients(*call(name, x), x)


def test_the_oracle_is_transformers_recurrence() -> None:
    time_decay, x = torch.randn(8), draw(2, 12, 8, empty=True).to(torch.float32)
    time_decay.requires_grad_()
    theirs, (num, den, top) = rwkv_linear_attention_cpu(time_decay, x.u, x.k, x.v, return_state=True)
    ours, after = call("scan", x._replace(w=-time_decay.exp()))
    weight = torch.randn_like(ours)
    inputs = [time_decay, x.u, x.k, x.v]
    outputs = [
        {"y": y, "memory": as_memory(memory)}
        | {str(i): g for i, g in enumerate(torch.autograd.grad((y * weight).sum() + as_memory(memory).sum(), inputs))}
        # Theirs differentiates its maxima as well; for functions of the true memory that must make no difference.
        for y, memory in ((ours, after), (theirs, WKV4Memory(num, den, top)))
    ]
    compare(*outputs, 1e-5)


SHAPES = [(2, 1, 5), (1, 2, 3), (3, 40, 97), (2, 17, 64), (2, 33, 128), (1, 130, 16)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("empty", [True, False], ids=["from empty", "carried"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FAST)
def test_fast_is_the_oracle(name: str, shape: tuple[int, int, int], empty: bool, dtype: torch.dtype) -> None:
    x = draw(*shape, empty=empty)
    for lengths in (None, torch.randint(0, shape[1] + 1, shape[:1]), torch.full(shape[:1], shape[1])):
        ours, theirs = (x._replace(lengths=lengths).to(kind) for kind in (dtype, torch.float64))
        compare(everything(name, ours), everything("scan", theirs), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["scan", *FAST])
def test_large_keys_stay_finite_and_right(name: str, dtype: torch.dtype) -> None:
    x = draw(2, 50, 24, empty=True)
    signs = torch.where(torch.rand_like(x.k) < 0.5, -1.0, 1.0)
    # From one extreme to the other, also in whole channels, and within reach of the smallest numbers.
    keys = [signs * 95, torch.full_like(x.k, 95), torch.full_like(x.k, -95), signs * torch.rand_like(x.k) * 95]
    for k in keys:
        ours = everything(name, x._replace(k=k).to(dtype))
        assert all(z.isfinite().all() for z in ours.values())
        # An fp32 key of 95 is one in steps of 8e-6, and so are its exponential and the oracle in fp32.
        compare(ours, everything("scan", x._replace(k=k).to(torch.float64)), 3 * TOLERANCE[dtype])


@pytest.mark.parametrize("name", FAST)
def test_an_empty_memory_is_no_memory(name: str) -> None:
    """The first y is the first v, whatever the size of its key; and far below an old memory nothing is left of it."""
    x = draw(2, 3, 8, empty=True)
    for size in (-95.0, 0.0, 95.0):
        y, after = call(name, x._replace(k=torch.full_like(x.k, size)))
        torch.testing.assert_close(y[:, 0], x.v[:, 0])
        assert (after.top == size).all()
    x = draw(2, 3, 8)._replace(top=torch.full((2, 8), -1e4))
    torch.testing.assert_close(call(name, x)[0][:, 0], x.v[:, 0])


@pytest.mark.parametrize("name", ["scan", *FAST])
def test_splitting_anywhere_changes_nothing(name: str) -> None:
    x = draw(2, 21, 70).to(torch.float64)
    whole = everything(name, x)
    for cut in (1, 2, 9, 16, 20):
        first, between = call(name, x._replace(k=x.k[:, :cut], v=x.v[:, :cut]))
        second, after = call(name, Inputs(x.w, x.u, x.k[:, cut:], x.v[:, cut:], *between))
        compare(with_gradients(torch.cat([first, second], 1), after, x), whole, 1e-10)


@pytest.mark.parametrize("name", ["scan", *FAST])
def test_a_ragged_row_is_that_row_alone(name: str) -> None:
    lengths = [0, 1, 16, 17, 20]
    x = draw(5, 20, 66).to(torch.float64)
    # What stands behind a row's end does not matter, not even if it is no number (which autograd cannot mask).
    behind = 1e3 if name == "scan" else torch.nan
    for row, length in enumerate(lengths):
        for z in (x.k, x.v):
            z.data[row, length:] = behind
    x = x._replace(lengths=torch.tensor(lengths))
    y, after = call(name, x)
    gradients = torch.autograd.grad(y.square().sum() + as_memory(after).sum(), x[2:6])
    for row, length in enumerate(lengths):
        assert not y[row, length:].any()
        assert not gradients[0][row, length:].any()
        assert not gradients[1][row, length:].any()
        if length == 0:
            assert all(torch.equal(a[row], b) for a, b in zip(after, (x.num[row], x.den[row], x.top[row]), strict=True))
            continue
        alone = Inputs(x.w, x.u, *(z[row : row + 1, :length] for z in x[2:4]), *(z[row : row + 1] for z in x[4:7]))
        y_alone, after_alone = call(name, alone)
        loss = y_alone.square().sum() + as_memory(after_alone).sum()
        torch.testing.assert_close(y[row, :length], y_alone[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(as_memory(after)[:, row], as_memory(after_alone)[:, 0], rtol=0, atol=1e-12)
        for a, b in zip(gradients, torch.autograd.grad(loss, x[2:6]), strict=True):
            torch.testing.assert_close(a[row], b[row], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 3])], ids=["full", "ragged"])
def test_gradcheck(name: str, lengths: Tensor | None) -> None:
    x = draw(2, 5, 3).to(torch.float64)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        y, (num, den, top) = call(name, Inputs(*tensors, x.top, lengths))
        return y, num * top.exp(), den * top.exp()

    assert torch.autograd.gradcheck(function, x[:6], fast_mode=True)


@pytest.mark.parametrize("name", FAST)
def test_only_what_is_asked_for_gets_a_gradient(name: str) -> None:
    x = draw(2, 6, 4)
    y, after = call(name, x)
    assert not any(z.requires_grad for z in (y, *after))
    y, after = call(name, x._replace(v=x.v.clone().requires_grad_()))
    assert y.requires_grad
    assert not after.top.requires_grad
    with torch.no_grad():
        assert not call(name, x.to(torch.float32))[0].requires_grad


@pytest.mark.parametrize("name", ["scan", *FAST])
def test_strided_inputs(name: str) -> None:
    x = draw(4, 9, 10).to(torch.float64)
    mixed = torch.stack([x.k.detach(), x.v.detach()], 3)
    strided = x._replace(
        k=mixed[..., 0].requires_grad_(),
        v=mixed[..., 1].requires_grad_(),
        num=x.num.detach().mT.contiguous().mT.requires_grad_(),
        top=x.top.mT.contiguous().mT,
        w=x.w.detach().repeat_interleave(2)[::2].requires_grad_(),
    )
    assert not strided.k.is_contiguous()
    assert not strided.num.is_contiguous()
    compare(everything(name, strided), everything(name, x), 1e-14)


@pytest.mark.parametrize("name", FAST[1:])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_threads_change_nothing(name: str, dtype: torch.dtype) -> None:
    x = draw(3, 120, 1100).to(dtype)
    assert x.k.numel() >= PARALLEL_FROM
    single, *others = with_threads([1, 2, 3], lambda: everything(name, x))
    for other in others:
        assert all(torch.equal(single[key], other[key]) for key in other)
