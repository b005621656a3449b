"""Mamba's selective scan: the oracle by hand and against transformers, the compiled one against both."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

from prosg.ops.selective_scan import KERNELS
from prosg.ops.selective_scan.compiled import LIBRARY, PARALLEL_FROM
from support.kernels import built, compare, with_threads
from support.models import TOLERANCE

C_KERNEL = pytest.param("c", marks=built(LIBRARY))
BOTH = pytest.mark.parametrize("name", ["scan", C_KERNEL])
COMPILED = pytest.mark.parametrize("name", [C_KERNEL])


class Inputs(NamedTuple):
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    state: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        """Of another type, in leaves of their own."""
        return Inputs(*(z.detach().to(dtype).clone().requires_grad_() for z in self))


def draw(batch: int, time: int, channels: int, size: int, *, empty: bool = False) -> Inputs:
    """fp32 values as Mamba has them, so that both types begin with the same numbers."""
    x, B, C = torch.randn(batch, time, channels), *torch.randn(2, batch, time, size)
    dt, A = torch.rand(batch, time, channels), -4 * torch.rand(channels, size)
    state = torch.zeros(batch, channels, size) if empty else torch.randn(batch, channels, size)
    return Inputs(x, dt, A, B, C, state)


def with_gradients(y: Tensor, after: Tensor, x: Inputs) -> dict[str, Tensor]:
    """Outputs, and the gradients of a loss that depends on both."""
    shuffle = torch.Generator().manual_seed(1)
    weights = [torch.randn(z.shape, generator=shuffle).to(z.dtype) for z in (y, after)]
    loss = (y * weights[0]).sum() + (after * weights[1]).sum()
    gradients = torch.autograd.grad(loss, x)
    return {"y": y, "after": after} | dict(zip((f"g_{field}" for field in Inputs._fields), gradients, strict=True))


def everything(name: str, x: Inputs) -> dict[str, Tensor]:
    return with_gradients(*KERNELS[name](*x), x)


@pytest.mark.parametrize("empty", [True, False], ids=["from empty", "carried"])
def test_the_oracle_is_the_papers_recurrence(empty: bool) -> None:
    """Number by number, after algorithm 2 of arXiv 2312.00752, with B discretised as dt B."""
    inputs = Inputs(*(z.double() for z in draw(2, 6, 3, 4, empty=empty)))
    x, dt, A, B, C, h = (z.clone().numpy() for z in inputs)
    y = np.zeros(x.shape)
    for row, t, channel in np.ndindex(*x.shape):
        step = dt[row, t, channel]
        for n in range(A.shape[1]):
            h[row, channel, n] *= np.exp(step * A[channel, n])
            h[row, channel, n] += step * B[row, t, n] * x[row, t, channel]
            y[row, t, channel] += C[row, t, n] * h[row, channel, n]
    for ours, theirs in zip(KERNELS["scan"](*inputs), (y, h), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-12)


@BOTH
@pytest.mark.parametrize("shape", [(2, 1, 5, 3), (2, 20, 7, 4), (1, 33, 66, 16)], ids=str)
def test_it_is_transformers_own(name: str, shape: tuple[int, int, int, int]) -> None:
    """From an empty state. The original rounds x and B, and so their gradients, to fp32: the values here are such."""
    x = draw(*shape, empty=True).to(torch.float64)
    ours = everything(name, x)
    y, after = mamba_selective_scan(x.x.mT, x.dt.mT, x.A, x.B.mT, x.C.mT, return_last_state=True)
    theirs = with_gradients(y.mT, after + 0 * x.state, x)
    for outputs in (ours, theirs):
        del outputs["g_state"]  # there is none to give
    compare({key: ours.pop(key) for key in ("y", "after")}, {key: theirs.pop(key) for key in ("y", "after")}, 1e-12)
    compare(ours, theirs, 1e-6)


# Channels: less than a vector, blocks and a part of one; numbers of state: odd, and whole vectors; steps: a segment's
# ends.
SHAPES = [(2, 1, 5, 3), (1, 2, 3, 1), (2, 40, 70, 5), (3, 16, 64, 4), (2, 17, 33, 16), (1, 33, 130, 18), (2, 48, 8, 9)]


@COMPILED
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("empty", [True, False], ids=["from empty", "carried"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_is_the_oracle(name: str, shape: tuple[int, int, int, int], empty: bool, dtype: torch.dtype) -> None:
    x = draw(*shape, empty=empty)
    theirs = everything("scan", x.to(torch.float64))
    compare(everything(name, x.to(dtype)), theirs, TOLERANCE[dtype])
    with torch.no_grad():  # one token goes another way where no backward will follow
        y, after = KERNELS[name](*x.to(dtype))
    compare({"y": y, "after": after}, {key: theirs[key] for key in ("y", "after")}, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rate", [0.0, -1e-4, -1e3], ids=["keeps all", "keeps long", "keeps nothing"])
@BOTH
def test_extreme_decays(name: str, rate: float, dtype: torch.dtype) -> None:
    x = draw(2, 100, 20, 4)
    x = x._replace(A=torch.full_like(x.A, rate))
    ours = everything(name, x.to(dtype))
    assert all(z.isfinite().all() for z in ours.values())
    compare(ours, everything("scan", x.to(torch.float64)), TOLERANCE[dtype])


@BOTH
def test_splitting_anywhere_changes_nothing(name: str) -> None:
    x = draw(2, 37, 7, 5).to(torch.float64)
    whole = everything(name, x)
    for cut in (1, 2, 15, 16, 17, 36):
        first, between = KERNELS[name](x.x[:, :cut], x.dt[:, :cut], x.A, x.B[:, :cut], x.C[:, :cut], x.state)
        second, after = KERNELS[name](x.x[:, cut:], x.dt[:, cut:], x.A, x.B[:, cut:], x.C[:, cut:], between)
        compare(with_gradients(torch.cat([first, second], 1), after, x), whole, 1e-10)


@COMPILED
@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=str)
def test_what_is_no_number_stays_in_its_row(name: str, bad: float) -> None:
    """The second row's block of channels and numbers of state are padded where the first one's numbers stood."""
    x = draw(2, 20, 65, 5).to(torch.float64)
    x.x.data[0] = bad
    ours = everything(name, x)
    alone = Inputs(*(z if z is x.A else z[1:] for z in x))
    y, after = KERNELS[name](*alone)
    assert torch.equal(ours["y"][1:], y) and torch.equal(ours["after"][1:], after)
    assert all(ours[f"g_{field}"][1].isfinite().all() for field in ("x", "dt", "B", "C", "state"))


@COMPILED
def test_gradcheck(name: str) -> None:
    assert torch.autograd.gradcheck(lambda *tensors: KERNELS[name](*tensors), tuple(draw(2, 3, 3, 3).to(torch.float64)))


@COMPILED
def test_only_what_is_asked_for_gets_a_gradient(name: str) -> None:
    x = draw(2, 6, 4, 3)
    assert not any(z.requires_grad for z in KERNELS[name](*x))
    for field in Inputs._fields:
        leaf = x._replace(**{field: getattr(x, field).clone().requires_grad_()})
        # One of the results alone: the other's gradient is then 0.
        for result in (0, 1) if field != "C" else (0,):
            (ours,) = torch.autograd.grad(KERNELS[name](*leaf)[result].sum(), [getattr(leaf, field)])
            (theirs,) = torch.autograd.grad(KERNELS["scan"](*leaf)[result].sum(), [getattr(leaf, field)])
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert not any(z.requires_grad for z in KERNELS[name](*x.to(torch.float32)))


@BOTH
def test_strided_inputs(name: str) -> None:
    x = draw(3, 9, 6, 4).to(torch.float64)
    turned = Inputs(*(z.detach().mT.contiguous().mT.requires_grad_() for z in x))
    assert not any(z.is_contiguous() for z in turned)
    compare(everything(name, turned), everything(name, x), 1e-14)


@COMPILED
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_threads_change_nothing(name: str, dtype: torch.dtype) -> None:
    x = draw(3, 100, 225, 16).to(dtype)
    assert x.x.numel() * x.A.shape[1] >= PARALLEL_FROM
    single, *others = with_threads([1, 2, 3], lambda: everything(name, x))
    for other in others:
        assert all(torch.equal(single[key], other[key]) for key in other)


@COMPILED
def test_what_does_not_fit_is_refused(name: str) -> None:
    x = draw(2, 3, 4, 5)
    kernel = inspect.unwrap(KERNELS[name])  # without the check of shapes that there is under pytest only
    for field, wrong in {
        "state": x.state[:1],
        "x": x.x[:, :2],
        "dt": x.dt.double(),
        "A": x.A[:3],
        "B": x.B.to("meta"),
        "C": x.C[:, :, :4],
    }.items():
        with pytest.raises(ValueError, match=r"selective_scan: "):
            kernel(*x._replace(**{field: wrong}))
