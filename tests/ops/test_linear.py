"""Products of few rows with a matrix: the compiled kernel against PyTorch, on every set of instructions' edge sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prosg.backbones.layers import MetaAwareLinear
from prosg.ops.linear import KERNELS, linear
from prosg.ops.linear.compiled import LIBRARY, PARALLEL_FROM, compiled_linear, most_rows
from prosg.ops.linear.naive import naive_linear
from support.kernels import built, with_threads

SIZES = [(1, 1), (3, 5), (16, 32), (17, 31), (50, 96), (97, 160), (200, 64), (259, 768), (41, 3100)]
ROWS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 63, 64]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.int8: 2e-6}

pytestmark = built(LIBRARY)


def draw(outputs: int, inputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    if dtype == torch.int8:
        return torch.randint(-127, 128, (outputs, inputs), dtype=dtype), torch.rand(outputs) + 0.1
    return torch.randn(outputs, inputs).to(dtype), None


def gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_kernel_equals_the_product_of_doubles(size: tuple[int, int], dtype: torch.dtype) -> None:
    weight, scale = draw(*size, dtype)
    for rows in ROWS:
        x = torch.randn(rows, size[1]).to(torch.float32 if dtype == torch.int8 else dtype)
        true = naive_linear(x.double(), weight.double() * (1 if scale is None else scale.unsqueeze(1)))
        assert gap(compiled_linear(x, weight, scale), true) <= TOLERANCE[dtype]


def test_an_int8_matrix_takes_rows_of_bf16() -> None:
    weight, scale = draw(70, 96, torch.int8)
    x = torch.randn(3, 96).bfloat16()
    y = compiled_linear(x, weight, scale)
    assert y.dtype == torch.bfloat16
    assert gap(y, naive_linear(x.double(), weight.double() * scale.unsqueeze(1))) <= 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_a_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    weight, scale = draw(300, 200, dtype)
    x = torch.randn(most_rows(dtype), 200)
    together = compiled_linear(x, weight, scale)
    for rows in (1, 3, 8, 17, 40):
        assert torch.equal(compiled_linear(x[:rows], weight, scale), together[:rows])


def test_threads_change_nothing() -> None:
    outputs = -(-PARALLEL_FROM // 96) + 1
    for dtype in TOLERANCE:
        weight, scale = draw(outputs, 96, dtype)
        x = torch.randn(9, 96).to(torch.float32 if dtype == torch.int8 else dtype)
        one, two, three = with_threads((1, 2, 3), lambda x=x, w=weight, s=scale: compiled_linear(x, w, s))
        assert torch.equal(one, two) and torch.equal(one, three)


def test_numbers_that_are_none_stay_so() -> None:
    weight = torch.randn(40, 64)
    for value in (torch.nan, torch.inf):
        x = torch.randn(2, 64)
        x[1, 5] = value
        y = compiled_linear(x, weight)
        assert y[0].isfinite().all() and not y[1].isfinite().any()
        assert not compiled_linear(x.bfloat16(), weight.bfloat16())[1].isfinite().any()


def test_further_dimensions_and_gaps_in_memory() -> None:
    weight = torch.randn(20, 48)
    x = torch.randn(2, 3, 96)[..., ::2]
    assert gap(compiled_linear(x, weight), naive_linear(x, weight)) <= 2e-6


@pytest.mark.parametrize(
    ("x", "weight", "scale"),
    [
        (torch.zeros(2, 4).double(), torch.zeros(3, 4), None),
        (torch.zeros(2, 4).bfloat16(), torch.zeros(3, 4), None),
        (torch.zeros(2, 4), torch.zeros(4, 3).T, None),
        (torch.zeros(2, 4), torch.zeros(3, 4, dtype=torch.int8), None),
        (torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3)),
    ],
)
def test_what_does_not_fit_is_refused(x: Tensor, weight: Tensor, scale: Tensor | None) -> None:
    with pytest.raises(ValueError, match="linear"):
        compiled_linear(x, weight, scale)


def test_gradients_many_rows_and_other_types_go_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("prosg.ops.linear.compiled_linear", lambda *args: calls.append(args) or args[0])
    weight = nn.Parameter(torch.randn(6, 6))
    with torch.no_grad():
        linear(torch.randn(2, 6), weight)
        assert len(calls) == 1
        linear(torch.randn(most_rows(torch.float32) + 1, 6), weight)
        linear(torch.randn(0, 6), weight)
        linear(torch.randn(2, 6).double(), weight.double())
        with torch.autocast("cpu", torch.bfloat16):
            linear(torch.randn(2, 6), weight)
    y = linear(torch.randn(2, 6), weight)
    y.sum().backward()
    assert len(calls) == 1 and weight.grad is not None


def test_a_layer_is_nn_linear() -> None:
    layer = MetaAwareLinear(24, 10)
    x = torch.randn(2, 3, 24)
    with torch.no_grad():
        assert gap(layer(x), nn.functional.linear(x, layer.weight, layer.bias)) <= 2e-6


def test_kernels_have_names() -> None:
    assert list(KERNELS) == ["torch", "c"]
