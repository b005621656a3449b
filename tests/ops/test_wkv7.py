"""RWKV-7's recurrence: the oracle against the equations by hand, every kernel against the oracle."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prosg.ops.pull import Pull
from prosg.ops.wkv7 import KERNELS
from prosg.ops.wkv7.compiled import LIBRARY, PARALLEL_FROM
from support.kernels import compare, fast, with_threads
from support.models import TOLERANCE

FAST = fast(LIBRARY)
SLOWEST, FASTEST = 0.0, -0.606531
"""Logarithms of the decay between which RWKV-7's lie."""


class Inputs(NamedTuple):
    r: Tensor
    w: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor
    state: Tensor
    lengths: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Inputs:
        """Of another type, in leaves of their own."""
        leaves = [x.detach().to(dtype).clone().requires_grad_() for x in self[:7]]
        return Inputs(*leaves, self.lengths)


def draw(batch: int, time: int, heads: int, size: int, *, empty: bool = False) -> Inputs:
    """fp32 values as RWKV-7 has them, so that both types begin with the same numbers."""
    r, k, v = torch.randn(3, batch, time, heads, size)
    w = FASTEST * torch.rand(batch, time, heads, size)
    direction = F.normalize(torch.randn(batch, time, heads, size), dim=-1)
    state = torch.zeros(batch, heads, size, size) if empty else torch.randn(batch, heads, size, size)
    return Inputs(r, w, k, v, -direction, direction * torch.rand(batch, time, heads, size), state)


def call(name: str, x: Inputs) -> tuple[Tensor, Tensor]:
    return KERNELS[name](*x)


def with_gradients(y: Tensor, state: Tensor, x: Inputs) -> dict[str, Tensor]:
    """Outputs, and the gradients of a loss that depends on both."""
    shuffle = torch.Generator().manual_seed(1)
    weights = [torch.randn(z.shape, generator=shuffle).to(z.dtype) for z in (y, state)]
    loss = (y * weights[0]).sum() + (state * weights[1]).sum()
    gradients = torch.autograd.grad(loss, x[:7])
    return {"y": y, "after": state} | dict(zip(Inputs._fields, gradients, strict=False))


def everything(name: str, x: Inputs) -> dict[str, Tensor]:
    return with_gradients(*call(name, x), x)


def by_hand(x: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Number by number, after equations 16 and 17 of arXiv 2503.14456 with a = -kk and b = kk * (learning rate)."""
    r, w, k, v, a, b, state = (z.detach().double().numpy() for z in x[:7])
    batch, time, heads, size = r.shape
    y, now = np.zeros(r.shape), state.copy()
    for row in range(batch):
        for head in range(heads):
            memory = now[row, head]
            for t in range(time):
                at = row, t, head
                # S (diag(w) + a b^T): every row of the memory is a vector that is multiplied from the right.
                transition = np.diag(np.exp(w[at]))
                for i in range(size):
                    for j in range(size):
                        transition[i, j] += a[at][i] * b[at][j]
                memory = memory @ transition
                for value in range(size):
                    for key in range(size):
                        memory[value, key] += v[at][value] * k[at][key]
                    y[at][value] = sum(memory[value, key] * r[at][key] for key in range(size))
            now[row, head] = memory
    return y, now


@pytest.mark.parametrize("empty", [True, False], ids=["from empty", "carried"])
def test_the_oracle_is_the_papers_recurrence(empty: bool) -> None:
    x = draw(2, 6, 2, 5, empty=empty).to(torch.float64)
    for ours, theirs in zip(call("scan", x), by_hand(x), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=1e-12)


SHAPES = [
    (2, 1, 2, 22),
    (2, 1, 1, 5),
    (1, 2, 1, 3),
    (2, 40, 3, 17),
    (3, 17, 1, 32),
    (2, 33, 2, 64),
    (1, 130, 2, 16),
    (2, 20, 3, 48),
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("empty", [True, False], ids=["from empty", "carried"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FAST)
def test_fast_is_the_oracle(name: str, shape: tuple[int, int, int, int], empty: bool, dtype: torch.dtype) -> None:
    x = draw(*shape, empty=empty)
    for lengths in (None, torch.randint(0, shape[1] + 1, shape[:1]), torch.full(shape[:1], shape[1])):
        ours, theirs = (x._replace(lengths=lengths).to(kind) for kind in (dtype, torch.float64))
        compare(everything(name, ours), everything("scan", theirs), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("decay", ["slowest", "fastest", "either"])
@pytest.mark.parametrize("name", ["scan", *FAST])
def test_extreme_decays(name: str, decay: str, dtype: torch.dtype) -> None:
    x = draw(2, 100, 2, 32)
    slow = {"slowest": torch.ones_like(x.w), "fastest": torch.zeros_like(x.w), "either": torch.rand_like(x.w).round()}
    x = x._replace(w=torch.where(slow[decay].bool(), SLOWEST, FASTEST))
    ours = everything(name, x.to(dtype))
    assert all(z.isfinite().all() for z in ours.values())
    compare(ours, everything("scan", x.to(torch.float64)), TOLERANCE[dtype])


@pytest.mark.parametrize("name", ["scan", *FAST])
def test_splitting_anywhere_changes_nothing(name: str) -> None:
    x = draw(2, 37, 2, 7).to(torch.float64)
    whole = everything(name, x)
    for cut in (1, 2, 15, 16, 17, 36):
        first, between = call(name, Inputs(*(z[:, :cut] for z in x[:6]), x.state))
        second, after = call(name, Inputs(*(z[:, cut:] for z in x[:6]), between))
        compare(with_gradients(torch.cat([first, second], 1), after, x), whole, 1e-10)


@pytest.mark.parametrize("name", ["scan", *FAST])
def test_a_ragged_row_is_that_row_alone(name: str) -> None:
    lengths = [0, 1, 16, 17, 20]
    x = draw(5, 20, 2, 6).to(torch.float64)
    # What stands behind a row's end does not matter, not even if it is no number (which autograd cannot mask).
    behind = torch.nan if name == "c" else 1e3
    for row, length in enumerate(lengths):
        for z in x[:6]:
            z.data[row, length:] = behind if z is not x.w else FASTEST
    x = x._replace(lengths=torch.tensor(lengths))
    y, after = call(name, x)
    gradients = torch.autograd.grad(y.square().sum() + after.square().sum(), x[:7])
    for row, length in enumerate(lengths):
        assert not y[row, length:].any()
        assert not any(gradient[row, length:].any() for gradient in gradients[:6])
        if length == 0:
            assert torch.equal(after[row], x.state[row])
            torch.testing.assert_close(gradients[6][row], 2 * x.state[row])
            continue
        alone = Inputs(*(z[row : row + 1, :length] for z in x[:6]), x.state[row : row + 1])
        y_alone, after_alone = call(name, alone)
        torch.testing.assert_close(y[row, :length], y_alone[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(after[row], after_alone[0], rtol=0, atol=1e-12)
        loss = y_alone.square().sum() + after_alone.square().sum()
        for a, b in zip(gradients, torch.autograd.grad(loss, x[:7]), strict=True):
            torch.testing.assert_close(a[row], b[row], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("size", [5, 16])
def test_what_is_no_number_stays_in_its_row(name: str, size: int) -> None:
    """The second row's head is padded in working space where the first one's numbers stood."""
    x = draw(2, 20, 1, size).to(torch.float64)
    x.r.data[0, 3, 0, 0] = torch.nan
    ours = everything(name, x)
    expected = everything(name, x._replace(r=x.r.nan_to_num()))
    assert all(torch.equal(ours[part][1], expected[part][1]) for part in ours)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("lengths", [None, torch.tensor([3, 2])], ids=["full", "ragged"])
def test_gradcheck(name: str, lengths: Tensor | None) -> None:
    x = draw(2, 3, 2, 3).to(torch.float64)
    assert torch.autograd.gradcheck(lambda *tensors: call(name, Inputs(*tensors, lengths)), x[:7], fast_mode=True)


@pytest.mark.parametrize("name", FAST)
def test_only_what_is_asked_for_gets_a_gradient(name: str) -> None:
    x = draw(2, 6, 2, 4)
    assert not any(z.requires_grad for z in call(name, x))
    for field in Inputs._fields[:7]:
        leaf = x._replace(**{field: getattr(x, field).clone().requires_grad_()})
        y, after = call(name, leaf)
        assert y.requires_grad
        assert after.requires_grad or field == "r"
        # One of the results alone: the other's gradient is then 0.
        for result in (y, after)[: 2 - (field == "r")]:
            (ours,) = torch.autograd.grad(result.sum(), [getattr(leaf, field)], retain_graph=True)
            (theirs,) = torch.autograd.grad(call("scan", leaf)[result is after].sum(), [getattr(leaf, field)])
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert not any(z.requires_grad for z in call(name, x.to(torch.float32)))


@pytest.mark.parametrize("pulled", [False, True])
@pytest.mark.parametrize("name", FAST)
def test_a_step_of_states_that_no_cache_holds_is_the_oracle(name: str, pulled: bool) -> None:
    x = draw(16, 1, 4, 128)
    pull = Pull(torch.randn_like(x.state), -torch.rand(16, 4)) if pulled else None
    with torch.no_grad():
        (y, after), (expected_y, expected) = (KERNELS[kernel](*x, pull) for kernel in (name, "scan"))
    assert (y - expected_y).abs().max() <= 1e-5 * expected_y.abs().max()
    assert (after - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["scan", *FAST])
def test_strided_inputs(name: str) -> None:
    x = draw(3, 9, 2, 5).to(torch.float64)
    mixed = torch.stack([z.detach() for z in x[:6]], 4)
    strided = Inputs(*(z.requires_grad_() for z in mixed.unbind(4)), x.state.detach().mT.contiguous().mT)
    strided.state.requires_grad_()
    assert not any(z.is_contiguous() for z in strided[:7])
    compare(everything(name, strided), everything(name, x), 1e-14)


@pytest.mark.parametrize("name", FAST[1:])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_threads_change_nothing(name: str, dtype: torch.dtype) -> None:
    x = draw(3, 100, 3, 50).to(dtype)
    assert x.r.numel() * x.r.shape[-1] >= PARALLEL_FROM
    single, *others = with_threads([1, 2, 3], lambda: everything(name, x))
    for other in others:
        assert all(torch.equal(single[key], other[key]) for key in other)


@pytest.mark.parametrize("name", FAST[1:])
def test_what_does_not_fit_is_refused(name: str) -> None:
    x = draw(2, 3, 2, 4)
    kernel = inspect.unwrap(KERNELS[name])  # without the check of shapes that there is under pytest only
    for field, wrong in {
        "state": x.state[:1],
        "r": x.r[:, :2],
        "w": x.w.double(),
        "b": x.b.to("meta"),
        "lengths": torch.tensor([1, 2, 3]),
    }.items():
        with pytest.raises(ValueError, match=r"wkv7: "):
            kernel(*x._replace(**{field: wrong}))
