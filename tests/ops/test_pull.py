"""A pull after every step, in every kernel: fast ones against the oracle, and the oracle against single steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prosg.ops import gated_delta, retention, wkv4, wkv7
from prosg.ops.pull import Pull, pull_memory
from prosg.ops.wkv4.compiled import LIBRARY as WKV4_LIBRARY
from prosg.ops.wkv7.compiled import LIBRARY as WKV7_LIBRARY
from support.kernels import built, compare, with_threads
from support.models import TOLERANCE

Leaves = dict[str, Tensor]


class Recurrence(NamedTuple):
    """A recurrence as a function of named tensors."""

    oracle: str
    draw: Callable[[int, int, int, int], Leaves]
    """(batch, time, heads, size) -> its inputs; names of those over time begin with "t_" """
    run: Callable[[str, Leaves, Tensor | None, bool], tuple[Tensor, Leaves]]
    """(kernel, inputs, lengths, pulled) -> y and the memory after it, whose names are those of the inputs"""
    pull: Callable[[Leaves, Leaves], Leaves]
    """(memory, inputs) -> the memory after one pull"""
    fixed: tuple[str, ...] = ()
    """inputs without a gradient"""


def draw_matrices(batch: int, heads: int, values: int, keys: int) -> Leaves:
    return {
        "memory": torch.randn(batch, heads, values, keys),
        "target": 0.3 * torch.randn(batch, heads, values, keys),
        "log_keep": -0.5 * torch.rand(batch, heads),
    }


def pull_matrices(memory: Leaves, x: Leaves) -> Leaves:
    return {"memory": pull_memory(memory["memory"], Pull(x["target"], x["log_keep"]))}


def draw_wkv7(batch: int, time: int, heads: int, size: int) -> Leaves:
    r, k, v = torch.randn(3, batch, time, heads, size)
    direction = F.normalize(torch.randn(batch, time, heads, size), dim=-1)
    w, rate = -0.6 * torch.rand(batch, time, heads, size), torch.rand(batch, time, heads, size)
    over_time = {"t_r": r, "t_w": w, "t_k": k, "t_v": v, "t_a": -direction, "t_b": direction * rate}
    return over_time | draw_matrices(batch, heads, size, size)


def run_wkv7(kernel: str, x: Leaves, lengths: Tensor | None, pulled: bool) -> tuple[Tensor, Leaves]:
    over_time = (x[name] for name in ("t_r", "t_w", "t_k", "t_v", "t_a", "t_b"))
    pull = Pull(x["target"], x["log_keep"]) if pulled else None
    y, memory = wkv7.KERNELS[kernel](*over_time, x["memory"], lengths, pull)
    return y, {"memory": memory}


def draw_retention(batch: int, time: int, heads: int, size: int) -> Leaves:
    q, k = torch.randn(2, batch, time, heads, 2 * size)
    return {"t_q": q, "t_k": k, "t_v": torch.randn(batch, time, heads, size)} | draw_matrices(
        batch, heads, size, 2 * size
    )


def run_retention(kernel: str, x: Leaves, lengths: Tensor | None, pulled: bool) -> tuple[Tensor, Leaves]:
    decay = 3 * torch.log1p(-(2.0 ** (-5 - torch.arange(x["t_q"].shape[2], dtype=torch.float64))))
    pull = Pull(x["target"], x["log_keep"]) if pulled else None
    y, memory = retention.KERNELS[kernel](x["t_q"], x["t_k"], x["t_v"], decay, x["memory"], lengths, pull)
    return y, {"memory": memory}


def draw_gated_delta(batch: int, time: int, heads: int, size: int) -> Leaves:
    q, k = torch.randn(2, batch, time, heads, 2 * size)
    return {
        "t_q": q,
        "t_k": F.normalize(k, dim=-1),
        "t_v": torch.randn(batch, time, heads, size),
        "t_g": -0.2 * torch.randn(batch, time, heads).exp(),
        "t_beta": torch.rand(batch, time, heads),
    } | draw_matrices(batch, heads, size, 2 * size)


def run_gated_delta(kernel: str, x: Leaves, lengths: Tensor | None, pulled: bool) -> tuple[Tensor, Leaves]:
    over_time = (x[name] for name in ("t_q", "t_k", "t_v", "t_g", "t_beta"))
    pull = Pull(x["target"], x["log_keep"]) if pulled else None
    y, memory = gated_delta.KERNELS[kernel](*over_time, x["memory"], lengths, pull)
    return y, {"memory": memory}


def draw_wkv4(batch: int, time: int, heads: int, size: int) -> Leaves:
    channels = heads * size
    memory = {name: torch.randn(batch, channels) for name in ("num", "top", "pull_num", "pull_top")}
    memory |= {name: torch.rand(batch, channels) + 0.1 for name in ("den", "pull_den")}
    k, v = torch.randn(2, batch, time, channels)
    return {
        "t_k": 1.5 * k,
        "t_v": v,
        "w": -torch.randn(channels).exp(),
        "u": torch.randn(channels),
        "log_keep": -0.5 * torch.rand(batch, channels),
    } | memory


def pull_of(x: Leaves) -> wkv4.WKV4Pull:
    return wkv4.WKV4Pull(x["pull_num"], x["pull_den"], x["pull_top"], x["log_keep"])


def run_wkv4(kernel: str, x: Leaves, lengths: Tensor | None, pulled: bool) -> tuple[Tensor, Leaves]:
    memory = wkv4.WKV4Memory(x["num"], x["den"], x["top"])
    y, after = wkv4.KERNELS[kernel](x["w"], x["u"], x["t_k"], x["t_v"], memory, lengths, pull_of(x) if pulled else None)
    return y, after._asdict()


def pull_wkv4(memory: Leaves, x: Leaves) -> Leaves:
    return wkv4.pull_wkv4(wkv4.WKV4Memory(**memory), pull_of(x))._asdict()


RECURRENCES = {
    "wkv4": Recurrence("scan", draw_wkv4, run_wkv4, pull_wkv4, ("top", "pull_top")),
    "wkv7": Recurrence("scan", draw_wkv7, run_wkv7, pull_matrices),
    "retention": Recurrence("recurrent", draw_retention, run_retention, pull_matrices),
    "gated_delta": Recurrence("scan", draw_gated_delta, run_gated_delta, pull_matrices),
}
FAST = [
    ("wkv4", "torch"),
    pytest.param("wkv4", "c", marks=built(WKV4_LIBRARY)),
    ("wkv7", "torch"),
    pytest.param("wkv7", "c", marks=built(WKV7_LIBRARY)),
    ("retention", "parallel"),
    ("retention", "chunked"),
    ("gated_delta", "torch"),
]
fast = pytest.mark.parametrize(("name", "kernel"), FAST)
SHAPES = [(2, 1, 2, 5), (1, 2, 1, 3), (3, 40, 2, 17), (2, 33, 1, 64), (1, 130, 2, 16)]


def leaves(name: str, x: Leaves, dtype: torch.dtype) -> Leaves:
    fixed = RECURRENCES[name].fixed
    return {key: z.detach().to(dtype).clone().requires_grad_(key not in fixed) for key, z in x.items()}


def true_memory(memory: Leaves) -> list[Tensor]:
    """As it is, however it was normalised."""
    if "top" not in memory:
        return list(memory.values())
    return [memory["num"] * memory["top"].exp(), memory["den"] * memory["top"].exp()]


def everything(name: str, kernel: str, x: Leaves, lengths: Tensor | None = None) -> Leaves:
    """Outputs, and the gradients of a loss that depends on all of them."""
    y, memory = RECURRENCES[name].run(kernel, x, lengths, True)
    outputs = [y, *true_memory(memory)]
    shuffle = torch.Generator().manual_seed(1)
    loss = sum((z * torch.randn(z.shape, generator=shuffle).to(z.dtype)).sum() for z in outputs)
    learned = {key: z for key, z in x.items() if z.requires_grad}
    gradients: Any = torch.autograd.grad(loss, list(learned.values()))
    return {str(i): z for i, z in enumerate(outputs)} | dict(zip(learned, gradients, strict=True))


@pytest.mark.parametrize("name", RECURRENCES)
def test_the_oracle_pulls_between_steps(name: str) -> None:
    recurrence = RECURRENCES[name]
    x = leaves(name, recurrence.draw(2, 6, 2, 4), torch.float64)
    y, after = recurrence.run(recurrence.oracle, x, None, True)
    now, by_step = x, []
    for t in range(6):
        step = {key: z[:, t : t + 1] for key, z in x.items() if key.startswith("t_")}
        y_t, memory = recurrence.run(recurrence.oracle, {**now, **step}, None, False)
        now = {**x, **recurrence.pull(memory, x)}
        by_step.append(y_t)
    torch.testing.assert_close(torch.cat(by_step, 1), y, rtol=0, atol=1e-12)
    for ours, theirs in zip(true_memory(after), true_memory({key: now[key] for key in after}), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@fast
def test_fast_is_the_oracle(name: str, kernel: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    recurrence = RECURRENCES[name]
    x = recurrence.draw(*shape)
    for lengths in (None, torch.randint(0, shape[1] + 1, shape[:1]), torch.full(shape[:1], shape[1])):
        ours = everything(name, kernel, leaves(name, x, dtype), lengths)
        theirs = everything(name, recurrence.oracle, leaves(name, x, torch.float64), lengths)
        compare(ours, theirs, TOLERANCE[dtype])


@fast
def test_a_call_may_be_cut_anywhere(name: str, kernel: str) -> None:
    recurrence = RECURRENCES[name]
    x = leaves(name, recurrence.draw(2, 70, 2, 6), torch.float64)
    y, after = recurrence.run(kernel, x, None, True)
    for cut in (1, 16, 33, 69):
        over_time = [key for key in x if key.startswith("t_")]
        first, between = recurrence.run(kernel, {**x, **{key: x[key][:, :cut] for key in over_time}}, None, True)
        rest = {**x, **between, **{key: x[key][:, cut:] for key in over_time}}
        second, end = recurrence.run(kernel, rest, None, True)
        torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=0, atol=1e-11)
        for ours, theirs in zip(true_memory(end), true_memory(after), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@fast
def test_steps_beyond_the_length_are_not_pulled(name: str, kernel: str) -> None:
    recurrence = RECURRENCES[name]
    x = recurrence.draw(3, 20, 2, 6)
    lengths = torch.tensor([0, 7, 20])
    y, after = recurrence.run(kernel, x, lengths, True)
    assert not y[0].any()
    assert not y[1, 7:].any()
    for ours, before in zip(true_memory(after), true_memory({key: x[key] for key in after}), strict=True):
        assert torch.equal(ours[0], before[0])


@pytest.mark.parametrize(("name", "kernel"), [one for one in FAST if "c" in getattr(one, "values", ())])
def test_threads_change_nothing(name: str, kernel: str) -> None:
    x = leaves(name, RECURRENCES[name].draw(4, 150, 4, 128), torch.float32)
    single, *others = with_threads([1, 2, 3], lambda: everything(name, kernel, x))
    for other in others:
        assert all(torch.equal(single[key], other[key]) for key in other)


@pytest.mark.parametrize(("name", "kernel"), [one for one in FAST if "c" in getattr(one, "values", ())])
def test_a_pull_that_does_not_fit_is_refused(name: str, kernel: str) -> None:
    x = RECURRENCES[name].draw(2, 3, 2, 4)
    for key in ("log_keep", "pull_num" if name == "wkv4" else "target"):
        for wrong in (x[key][:1], x[key].double()):
            with pytest.raises((ValueError, TypeError), match=rf"{name}: |shape|dtype|annotation"):
                RECURRENCES[name].run(kernel, {**x, key: wrong}, None, True)
