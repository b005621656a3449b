"""What stands between the projections: the compiled form of one token against the plain one in fp64."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from prosg.core.update import LowRank, Site, prepare_update
from prosg.ops import step
from prosg.ops.step.compiled import (
    LIBRARY,
    compiled_add_deltas,
    compiled_finish,
    compiled_replacement,
    compiled_shift_mix,
    fits_deltas,
)
from prosg.ops.step.naive import (
    Replacement,
    RWKV7Vectors,
    naive_add_deltas,
    naive_finish,
    naive_replacement,
    naive_shift_mix,
)
from support.kernels import built

pytestmark = built(LIBRARY)
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2e-2}
types = pytest.mark.parametrize("dtype", list(TOLERANCE))
sizes = pytest.mark.parametrize(("batch", "heads", "size"), [(1, 1, 5), (3, 3, 32), (2, 2, 64), (5, 3, 100)])


def widened(value: Any) -> Any:
    """The same in fp64; of modules, a copy."""
    if isinstance(value, Tensor):
        return value.double()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(widened, value))
    if isinstance(value, list | tuple):
        return [widened(one) for one in value]
    if isinstance(value, nn.LayerNorm):
        copy: nn.Module = nn.LayerNorm(value.normalized_shape, eps=value.eps).double()
    elif isinstance(value, nn.GroupNorm):
        copy = nn.GroupNorm(value.num_groups, value.num_channels, eps=value.eps).double()
    else:
        return value
    copy.load_state_dict(value.state_dict())
    return copy


def assert_equal(ours: Any, true: Any, tolerance: float) -> None:
    for mine, exact in zip(ours, true, strict=True):
        if isinstance(mine, Tensor):
            scale = exact.abs().max().clamp(min=1e-30)
            assert (mine.double() - exact).abs().max() <= tolerance * scale
        else:
            assert_equal(mine, exact, tolerance)


class Norms(NamedTuple):
    layer: nn.LayerNorm
    group: nn.GroupNorm


def norms(heads: int, width: int, dtype: torch.dtype) -> Norms:
    made = Norms(nn.LayerNorm(width).to(dtype), nn.GroupNorm(heads, width, eps=64e-5).to(dtype))
    for norm in made:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return made


@types
@sizes
@pytest.mark.parametrize("backwards", [False, True])
@torch.no_grad()
def test_shift_and_mix(batch: int, heads: int, size: int, backwards: bool, dtype: torch.dtype) -> None:
    width = heads * size
    x, added = torch.randn(2, batch, 1, width).to(dtype)
    mixes = [torch.rand(1, 1, width).to(dtype) for _ in range(3)]
    norm, previous = norms(heads, width, dtype).layer, torch.randn(batch, width)
    for more in (None, added):
        given = (x, more, norm, previous, mixes, backwards)
        assert_equal(compiled_shift_mix(*given), naive_shift_mix(*map(widened, given)), TOLERANCE[dtype])


@types
@sizes
@torch.no_grad()
def test_low_rank_changes(batch: int, heads: int, size: int, dtype: torch.dtype) -> None:
    inp, out, rank = heads * size, size + 3, 4
    for shared in (False, True):
        update = prepare_update(
            {
                Site(0, str(i)): LowRank(
                    torch.randn(batch, rank, inp), torch.randn(out, rank) if shared else torch.randn(batch, out, rank)
                )
                for i in range(2)
            },
            dtype,
        )
        deltas = [*update.values(), None]
        outputs = [torch.randn(batch, 1, out).to(dtype) for _ in deltas]
        inputs = [torch.randn(batch, 1, inp).to(dtype) for _ in deltas]
        assert fits_deltas(outputs, deltas)
        true = naive_add_deltas(widened(outputs), widened(inputs), [widened(one) for one in deltas])
        assert_equal(compiled_add_deltas(outputs, inputs, deltas), true, TOLERANCE[dtype])


@torch.no_grad()
def test_an_update_that_is_not_laid_out_for_it_is_left_to_pytorch() -> None:
    delta = LowRank(torch.randn(2, 3, 8), torch.randn(2, 6, 3))
    y = [torch.randn(2, 1, 6)]
    assert not fits_deltas(y, [delta])
    assert not fits_deltas([y[0].bfloat16()], [LowRank(delta.a, delta.b.mT.contiguous().mT)])


@types
@sizes
@pytest.mark.parametrize("is_first", [False, True])
@torch.no_grad()
def test_what_the_recurrence_takes(batch: int, heads: int, size: int, is_first: bool, dtype: torch.dtype) -> None:
    width = heads * size
    r, k, v, w, a, mix, first = (torch.randn(batch, 1, width) * 3).to(dtype).expand(7, *[-1] * 3).clone()
    a0, v0, k_k, k_a = torch.randn(4, 1, 1, width).to(dtype)
    vectors = RWKV7Vectors(torch.randn(1, 1, width), a0, None if is_first else v0, k_k, k_a)
    given = (r, k, v, w, a, *((None, None) if is_first else (mix, first)), vectors, heads)
    true = naive_replacement(*map(widened, given), torch.float64)
    assert_equal(compiled_replacement(*given), true, TOLERANCE[dtype])


@types
@sizes
@torch.no_grad()
def test_norm_bonus_and_gate(batch: int, heads: int, size: int, dtype: torch.dtype) -> None:
    read = Replacement(*torch.randn(6, batch, 1, heads, size))
    y, gate = torch.randn(batch, 1, heads, size), torch.randn(batch, 1, heads * size).to(dtype)
    given = (y, read, torch.randn(heads, size).to(dtype), norms(heads, heads * size, dtype).group, gate)
    assert_equal(compiled_finish(*given), naive_finish(*map(widened, given)), TOLERANCE[dtype])


def test_a_key_of_zeros_has_no_direction() -> None:
    zero, one = torch.zeros(1, 1, 4), torch.ones(1, 1, 4)
    with torch.no_grad():
        read = compiled_replacement(
            one, zero, one, one, one, None, None, RWKV7Vectors(one, one, None, one, one), heads=1
        )
    assert all(bool(part.isfinite().all()) for part in read) and not read.a.any()


@pytest.mark.parametrize("time", [1, 2])
def test_more_tokens_and_gradients_are_left_to_pytorch(time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(step, "compiled_shift_mix", lambda *args: calls.append(args) or naive_shift_mix(*args))
    x, norm = torch.randn(2, time, 8), nn.LayerNorm(8)
    given = (x, None, norm, torch.zeros(2, 8), [torch.rand(1, 1, 8)])
    step.shift_mix(*given)
    with torch.no_grad():
        step.shift_mix(*given, lengths=torch.tensor([time, 0]))
        assert not calls
        step.shift_mix(*given)
    assert len(calls) == (time == 1)
