"""The update as a value: what it does to a projection, its rows, and its exact mean."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prosg.core.update import (
    LowRank,
    Site,
    batch_size,
    check_update,
    detach_update,
    join_updates,
    mean_update,
    project,
    replace_update_rows,
    take_update_rows,
)

B, T, OUT, INP, RANK = 4, 3, 5, 7, 2
KEY, VALUE = Site(0, "key"), Site(1, "value")


def factors(batch: int = B, shared: bool = True, out: int = OUT, inp: int = INP, rank: int = RANK) -> LowRank:
    b = (out, rank) if shared else (batch, out, rank)
    return LowRank(torch.randn(batch, rank, inp).double(), torch.randn(b).double())


def update(batch: int = B) -> dict[Site, LowRank]:
    """One site with a learned b, one with a b per row."""
    return {KEY: factors(batch, shared=True), VALUE: factors(batch, shared=False)}


def dense(some: dict[Site, LowRank]) -> dict[Site, Tensor]:
    return {site: delta.dense() for site, delta in some.items()}


def assert_rows(ours: dict[Site, LowRank], expected: dict[Site, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for site, delta in ours.items():
        torch.testing.assert_close(delta.dense(), expected[site], rtol=0, atol=1e-14)


@pytest.mark.parametrize("shared", [True, False])
def test_project_is_the_product_with_w_plus_dw(shared: bool) -> None:
    linear = nn.Linear(INP, OUT, bias=False).double()
    x, delta = torch.randn(B, T, INP).double(), factors(shared=shared)
    expected = torch.stack([x[i] @ (linear.weight + delta.dense()[i]).mT for i in range(B)])
    torch.testing.assert_close(project(linear, x, delta), expected, rtol=0, atol=1e-13)
    assert torch.equal(project(linear, x, None), linear(x))


def test_project_acts_only_where_it_is_active() -> None:
    linear = nn.Linear(INP, OUT, bias=False).double()
    x, delta = torch.randn(B, T, INP).double(), factors()
    active = torch.tensor([[0.0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 1]]).double().unsqueeze(2)
    y, plain, full = project(linear, x, delta, active), linear(x), project(linear, x, delta)
    torch.testing.assert_close(y, torch.where(active > 0, full, plain), rtol=0, atol=1e-14)


def test_project_calls_the_module_and_casts_the_factors() -> None:
    """A wrapped layer keeps what it adds; fp32 factors meet activations of any type."""

    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x[..., :OUT]

    x, delta = torch.randn(B, T, INP), factors()
    y = project(Wrapped(), x, delta)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), 2 * x[..., :OUT] + x.double() @ delta.dense().mT, rtol=1e-5, atol=1e-5)
    assert project(Wrapped(), x.bfloat16(), delta).dtype == torch.bfloat16


def test_rows_of_an_update() -> None:
    whole, other = update(), update(2)
    rows = torch.tensor([2, 0, 2])
    assert batch_size(whole) == B
    assert_rows(take_update_rows(whole, rows), {site: d[rows] for site, d in dense(whole).items()})
    joined = {site: torch.cat([d, dense(other)[site]]) for site, d in dense(whole).items()}
    assert_rows(join_updates([whole, other]), joined)
    # index order counts: row 3 gets the first of `other`, row 1 the second
    replaced = {site: d.clone() for site, d in dense(whole).items()}
    for site, d in replaced.items():
        d[3], d[1] = dense(other)[site][0], dense(other)[site][1]
    before = dense(whole)
    assert_rows(replace_update_rows(whole, torch.tensor([3, 1]), other), replaced)
    assert_rows(whole, before)


def test_a_taken_update_keeps_a_learned_b_learned() -> None:
    some = take_update_rows(update(), torch.tensor([1]))
    assert some[KEY].b.dim() == 2
    assert some[KEY].rows().b.shape == (1, OUT, RANK)
    assert some[VALUE].rows() is some[VALUE]


def test_detached_updates_have_no_history() -> None:
    delta = LowRank(*(leaf.requires_grad_() for leaf in factors()))
    detached = detach_update({KEY: LowRank(delta.a * 2, delta.b * 2)})[KEY]
    assert not detached.a.requires_grad
    assert not detached.b.requires_grad
    assert torch.equal(detached.a, 2 * delta.a)


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        ((B + 1, RANK, INP, OUT, RANK), r"0.key: a .*5, 2, 7.*4, r, 7"),
        ((B, RANK, INP + 1, OUT, RANK), r"0.key: a .*4, 2, 8.*4, r, 7"),
        ((B, RANK, INP, OUT, RANK + 1), r"0.key: b .*5, 3.*5, 2"),
    ],
)
def test_factors_that_do_not_fit_are_named(delta: tuple[int, ...], words: str) -> None:
    batch, rank, inp, *b = delta
    with pytest.raises(ValueError, match=words):
        check_update({KEY: LowRank(torch.zeros(batch, rank, inp), torch.zeros(b))}, {KEY: (OUT, INP)}, B)


def test_a_site_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"1.value.*0.key"):
        check_update({VALUE: factors()}, {KEY: (OUT, INP)}, B)


@pytest.mark.parametrize(("out", "inp"), [(5, 7), (7, 5), (4, 4)])
@pytest.mark.parametrize("shared", [True, False])
def test_the_mean_update_is_the_mean_of_the_products(out: int, inp: int, shared: bool) -> None:
    parts = [{KEY: factors(n, shared, out, inp)} for n in (1, 4, 2)]
    expected = torch.cat([part[KEY].dense() for part in parts]).mean(0)
    for updates in (parts, iter(parts)):
        mean = mean_update(updates, batch=3)[KEY]
        assert mean.a.shape == (3, min(out, inp), inp)
        assert mean.b.shape == (out, min(out, inp))
        for row in mean.dense():
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-14)
    check_update({KEY: mean}, {KEY: (out, inp)}, 3)
    # It is not the product of the mean factors, and of a higher rank than its terms.
    assert torch.linalg.matrix_rank(expected) == min(out, inp)


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="mean of no updates"):
        mean_update([], 2)


def test_a_site_is_named_as_in_files() -> None:
    assert str(Site(3, "output")) == "3.output"
