"""The gated delta rule: the oracle against transformers' two forms of it, the chunked form against the oracle."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.qwen3_next import modeling_qwen3_next

from prosg.ops.gated_delta import KERNELS
from support.kernels import compare
from support.models import TOLERANCE


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    memory: Tensor
    lengths: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Inputs:
        """Of another type, in leaves of their own."""
        return Inputs(*(x.detach().to(dtype).clone().requires_grad_() for x in self[:6]), self.lengths)

    def steps(self, start: int, end: int) -> Inputs:
        """Some of the steps, on from the same memory."""
        return Inputs(*(x[:, start:end] for x in self[:5]), self.memory)


def draw(batch: int, time: int, heads: int, keys: int, values: int, *, empty: bool = False) -> Inputs:
    """fp32 values, so that both types begin with the same numbers. A third of the steps forget nearly all."""
    q, k = torch.randn(2, batch, time, heads, keys)
    g = -torch.exp(2 * torch.randn(batch, time, heads) - 2)
    memory = torch.randn(batch, heads, values, keys) * (not empty)
    unit = F.normalize(k, dim=-1)
    return Inputs(q, unit, torch.randn(batch, time, heads, values), g, torch.rand(batch, time, heads), memory)


def everything(function: Any, x: Inputs) -> dict[str, Tensor]:
    """Outputs, and the gradients of a loss that depends on both."""
    outputs = function(*x)
    shuffle = torch.Generator().manual_seed(1)
    loss = sum((z * torch.randn(z.shape, generator=shuffle).to(z.dtype)).sum() for z in outputs)
    gradients = torch.autograd.grad(loss, x[:6])
    return {"y": outputs[0], "after": outputs[1]} | dict(zip(Inputs._fields, gradients, strict=False))


class InDouble:
    """torch, whose fp32 is fp64: transformers' forms compute in fp32 whatever they are given."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def transformers_form(name: str, dtype: torch.dtype) -> Any:
    """One of transformers' functions, in this type, with the signature of a kernel without lengths."""
    own = inspect.unwrap(getattr(modeling_qwen3_next, name))
    if dtype == torch.float64:
        own = FunctionType(own.__code__, {**own.__globals__, "torch": InDouble()}, name, own.__defaults__)

    def run(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, memory: Tensor, lengths: None) -> Any:
        q = q * q.shape[3] ** 0.5  # it scales queries by the inverse
        y, after = own(q, k, v, g, beta, initial_state=memory.mT, output_final_state=True)
        return y, after.mT

    return run


SHAPES = [(1, 2, 1, 4, 2), (2, 64, 3, 4, 4), (2, 65, 1, 6, 5), (2, 130, 2, 8, 16)]

types = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@types
@pytest.mark.parametrize("shape", [(1, 1, 2, 2, 3), (2, 70, 3, 8, 12)], ids=str)
@pytest.mark.parametrize("name", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_it_is_transformers(kernel: str, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = draw(*shape)
    ours, theirs = everything(KERNELS[kernel], x.to(dtype)), everything(transformers_form(name, dtype), x.to(dtype))
    compare(ours, theirs, TOLERANCE[dtype])


@types
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("empty", [True, False], ids=["from empty", "carried"])
def test_chunks_are_the_oracle(shape: tuple[int, ...], empty: bool, dtype: torch.dtype) -> None:
    x = draw(*shape, empty=empty)
    # At a first step from an empty memory g has no gradient.
    for lengths in (None, torch.randint(2, shape[1] + 1, shape[:1])):
        ours, theirs = (x._replace(lengths=lengths).to(kind) for kind in (dtype, torch.float64))
        compare(everything(KERNELS["torch"], ours), everything(KERNELS["scan"], theirs), TOLERANCE[dtype])


@pytest.mark.parametrize("name", KERNELS)
def test_a_call_may_be_cut_anywhere(name: str) -> None:
    x = draw(2, 70, 2, 4, 6).to(torch.float64)
    y, after = KERNELS[name](*x)
    for cut in (1, 13, 64, 69):
        first, between = KERNELS[name](*x.steps(0, cut))
        rest, end = KERNELS[name](*x.steps(cut, 70)._replace(memory=between))
        compare({"y": torch.cat([first, rest], 1), "after": end}, {"y": y, "after": after}, 1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_steps_beyond_the_length_are_no_steps(name: str) -> None:
    lengths = torch.tensor([0, 5, 64, 80])
    x = draw(4, 80, 2, 4, 6)._replace(lengths=lengths).to(torch.float64)
    y, after = KERNELS[name](*x)
    gradients = torch.autograd.grad(y.square().sum() + after.square().sum(), x[:5])
    for row, length in enumerate(lengths.tolist()):
        assert not y[row, length:].any()
        assert not any(gradient[row, length:].any() for gradient in gradients)
        if length == 0:
            assert torch.equal(after[row], x.memory[row])
            continue
        alone = KERNELS[name](*(z[row : row + 1] for z in x.steps(0, length)[:6]))
        ours = {"y": y[row : row + 1, :length], "after": after[row : row + 1]}
        compare(ours, dict(zip(("y", "after"), alone, strict=True)), 1e-12)


def test_decays_of_any_size_stay_finite() -> None:
    """A step may forget all: the sum of logarithms within a chunk is far beyond what fp32 can invert."""
    x = draw(1, 130, 2, 4, 4).to(torch.float32)
    x = x._replace(g=(x.g.detach() * 200).requires_grad_())
    compare(everything(KERNELS["torch"], x), everything(KERNELS["scan"], x.to(torch.float64)), 1e-4)


@pytest.mark.parametrize("name", KERNELS)
def test_finite_differences(name: str) -> None:
    x = draw(2, 5, 2, 2, 3).to(torch.float64)._replace(lengths=torch.tensor([5, 3]))
    assert torch.autograd.gradcheck(lambda *z: KERNELS[name](*z, x.lengths), x[:6], fast_mode=True)
