"""Retention: the oracle against the paper's equation in complex numbers, every form against the oracle."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from prosg.ops.retention import KERNELS, RETENTION, elapse
from support.kernels import CPU, compare
from support.models import TOLERANCE

FORMS = list(RETENTION.available(CPU, torch.float64))
FAST = [name for name in FORMS if name != "recurrent"]


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    memory: Tensor
    lengths: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Inputs:
        """Of another type, in leaves of their own."""
        return Inputs(*(x.detach().to(dtype).clone().requires_grad_() for x in self[:4]), self.lengths)


def draw(batch: int, time: int, heads: int, keys: int, values: int, *, empty: bool = False) -> Inputs:
    """fp32 values, so that both types begin with the same numbers."""
    q, k = torch.randn(2, batch, time, heads, keys)
    memory = torch.randn(batch, heads, values, keys) * (not empty)
    return Inputs(q, k, torch.randn(batch, time, heads, values), memory)


def decays(heads: int) -> Tensor:
    """The paper's, faster by a factor, so that long texts are forgotten in part."""
    return 3 * torch.log1p(-(2.0 ** (-5 - torch.arange(heads, dtype=torch.float64))))


def call(name: str, x: Inputs) -> tuple[Tensor, Tensor]:
    return KERNELS[name](x.q, x.k, x.v, decays(x.q.shape[2]), x.memory, x.lengths)


def everything(name: str, x: Inputs) -> dict[str, Tensor]:
    """Outputs, and the gradients of a loss that depends on both."""
    outputs = call(name, x)
    shuffle = torch.Generator().manual_seed(1)
    loss = sum((z * torch.randn(z.shape, generator=shuffle).to(z.dtype)).sum() for z in outputs)
    gradients = torch.autograd.grad(loss, x[:4])
    return {"y": outputs[0], "after": outputs[1]} | dict(zip(Inputs._fields, gradients, strict=False))


def test_the_oracle_is_the_papers_sum() -> None:
    """o_n = sum_{m <= n} gamma^(n-m) (Q_n e^{in theta}) (K_m e^{im theta})^dagger v_m (eq. 4), the real part of it."""
    batch, time, heads, keys, values = 2, 12, 3, 6, 5
    x = draw(batch, time, heads, keys, values, empty=True).to(torch.float64)
    theta = torch.tensor([10000 ** (-j / 2) for j in range(3)], dtype=torch.float64)
    expected = torch.zeros(batch, time, heads, values, dtype=torch.float64)
    for b in range(batch):
        for h, log in enumerate(decays(heads).tolist()):
            q, k = (torch.complex(z[b, :, h, ::2], z[b, :, h, 1::2]) for z in (x.q, x.k))
            for n in range(time):
                for m in range(n + 1):
                    turned = (q[n] * torch.exp(1j * n * theta)) @ (k[m] * torch.exp(1j * m * theta)).conj()
                    expected[b, n, h] += math.exp(log) ** (n - m) * turned.real * x.v[b, m, h]
    torch.testing.assert_close(call("recurrent", x)[0], expected, rtol=0, atol=1e-12)


SHAPES = [(2, 1, 2, 2, 3), (1, 2, 1, 4, 2), (3, 40, 2, 8, 12), (2, 64, 3, 4, 4), (2, 65, 1, 6, 5), (2, 200, 3, 8, 16)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("empty", [True, False], ids=["from empty", "carried"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FAST)
def test_fast_is_the_oracle(name: str, shape: tuple[int, ...], empty: bool, dtype: torch.dtype) -> None:
    x = draw(*shape, empty=empty)
    for lengths in (None, torch.randint(0, shape[1] + 1, shape[:1]), torch.full(shape[:1], shape[1])):
        ours, theirs = (x._replace(lengths=lengths).to(kind) for kind in (dtype, torch.float64))
        compare(everything(name, ours), everything("recurrent", theirs), TOLERANCE[dtype])


@pytest.mark.parametrize("name", FORMS)
def test_a_call_may_be_cut_anywhere(name: str) -> None:
    x = draw(2, 70, 2, 4, 6).to(torch.float64)
    y, after = call(name, x)
    for cut in (1, 13, 64, 69):
        first, between = call(name, Inputs(x.q[:, :cut], x.k[:, :cut], x.v[:, :cut], x.memory))
        rest, end = call(name, Inputs(x.q[:, cut:], x.k[:, cut:], x.v[:, cut:], between))
        compare({"y": torch.cat([first, rest], 1), "after": end}, {"y": y, "after": after}, 1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_steps_beyond_the_length_are_no_steps(name: str) -> None:
    lengths = torch.tensor([0, 5, 64, 80])
    x = draw(4, 80, 2, 4, 6)._replace(lengths=lengths).to(torch.float64)
    y, after = call(name, x)
    gradients = torch.autograd.grad(y.square().sum() + after.square().sum(), x[:3])
    for row, length in enumerate(lengths.tolist()):
        assert not y[row, length:].any()
        assert not any(gradient[row, length:].any() for gradient in gradients)
        if length == 0:
            assert torch.equal(after[row], x.memory[row])
            continue
        only = slice(row, row + 1)
        alone = call(name, Inputs(x.q[only, :length], x.k[only, :length], x.v[only, :length], x.memory[only]))
        compare({"y": y[only, :length], "after": after[only]}, dict(zip(("y", "after"), alone, strict=True)), 1e-12)


def test_elapsing_is_reading_nothing() -> None:
    x = draw(3, 9, 2, 4, 6).to(torch.float64)
    x = x._replace(k=torch.zeros_like(x.k), lengths=torch.tensor([0, 4, 9]))
    elapsed = elapse(x.memory, decays(2), x.lengths)
    torch.testing.assert_close(call("recurrent", x)[1], elapsed, rtol=0, atol=1e-12)


def test_long_texts_keep_their_angles() -> None:
    """fp32 holds an angle of 4,000 radians to 2e-4 only: place in the text must be counted in something better."""
    x = draw(1, 4000, 1, 8, 2)
    compare(
        dict(zip("ya", call("parallel", x), strict=True)),
        dict(zip("ya", call("chunked", x.to(torch.float64)), strict=True)),
        1e-5,
    )
    long = elapse(x.memory, torch.zeros(1), torch.tensor([4000.0]))
    compare({"a": long}, {"a": elapse(x.memory.double(), torch.zeros(1), torch.tensor([4000]))}, 1e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("time", [1, 5])
def test_strided_inputs(name: str, time: int) -> None:
    x = draw(2, time, 3, 4, 5).to(torch.float64)
    strided = Inputs(*(z.detach().mT.contiguous().mT.requires_grad_() for z in x[:4]))
    assert not any(z.is_contiguous() for z in strided[:4])
    compare(everything(name, strided), everything(name, x), 1e-14)


@pytest.mark.parametrize("name", FORMS)
def test_finite_differences(name: str) -> None:
    x = draw(2, 5, 2, 2, 3).to(torch.float64)._replace(lengths=torch.tensor([5, 3]))
    assert torch.autograd.gradcheck(lambda *z: call(name, Inputs(*z, x.lengths)), x[:4], fast_mode=True)
