"""Kernel ridge regression: against dense algebra, and leave-one-out against leaving samples out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.fewshot import ridge
from crossgraft.fewshot.cache import affinity
from crossgraft.fewshot.features import unit
from crossgraft.fewshot.ridge import (
    factorise,
    gram,
    last_inverse,
    leave_one_out,
    left_out_last,
    solve,
)

torch.set_num_threads(1)

M, N = 40, 5


def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Kernel (M, M), residual (M, N) and ridge (M,), in float64."""
    generator = torch.Generator().manual_seed(0)
    keys = unit(torch.randn(M, 8, generator=generator, dtype=torch.float64))
    residual = torch.randn(M, N, generator=generator, dtype=torch.float64)
    return affinity(keys @ keys.T, 3.0), residual, 0.05 + torch.rand(M, generator=generator, dtype=torch.float64)


def test_tiles_make_the_lower_triangle_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, _, _ = problem()
    for tile in (1, 7, M, 100):
        monkeypatch.setattr(ridge, "_TILE", tile)
        torch.testing.assert_close(gram(lambda i, j: kernel[i, j], M, kernel).tril(), kernel.tril())


@pytest.mark.parametrize("tile", [1, 7, M, 100])
def test_the_factor_takes_the_place_of_the_kernel_and_solves(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "_TILE", tile)
    kernel, residual, lam = problem()
    filled = gram(lambda i, j: kernel[i, j], M, kernel)
    factor = factorise(filled, lam)
    assert factor.data_ptr() == filled.data_ptr()
    torch.testing.assert_close(factor.tril(), torch.linalg.cholesky(kernel + lam.diag()))
    above = torch.ones(M, M, dtype=torch.bool).triu(1)
    factor[above] = torch.nan  # nothing reads it
    torch.testing.assert_close(solve(factor, residual), torch.linalg.solve(kernel + lam.diag(), residual))
    one = factorise(gram(lambda i, j: kernel[i, j], M, kernel), 0.3)
    regular = kernel + 0.3 * torch.eye(M, dtype=torch.float64)
    torch.testing.assert_close(solve(one, residual), torch.linalg.solve(regular, residual))


def test_the_last_block_of_the_inverse_is_that_of_the_factors_last_block() -> None:
    kernel, _, lam = problem()
    factor = factorise(gram(lambda i, j: kernel[i, j], M, kernel), lam)
    inverse = torch.linalg.inv(kernel + lam.diag())
    factor[torch.ones(M, M, dtype=torch.bool).triu(1)] = torch.nan
    for n in (1, 9, M):
        torch.testing.assert_close(last_inverse(factor, n), inverse[M - n :, M - n :])


def left_out(groups: list[list[int]]) -> Tensor:
    """Errors of the samples in `groups`, each group predicted by a solution without it."""
    kernel, residual, lam = problem()
    regular = kernel + lam.diag()
    errors = residual.clone()
    for out in groups:
        kept = [i for i in range(M) if i not in out]
        coef = torch.linalg.solve(regular[kept][:, kept], residual[kept])
        errors[out] -= kernel[out][:, kept] @ coef
    return errors


def test_leave_one_out_is_what_fitting_without_the_sample_gives() -> None:
    kernel, residual, lam = problem()
    factor = factorise(gram(lambda i, j: kernel[i, j], M, kernel), lam)
    expected = left_out([[i] for i in range(M)])
    for n in (6, M):
        torch.testing.assert_close(leave_one_out(factor, solve(factor, residual), n), expected[M - n :])


def test_a_kernel_that_is_not_positive_definite_is_refused() -> None:
    kernel = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(InputError, match="use a larger lam"):
        factorise(kernel, 0.1)


def test_those_left_out_are_spread_over_the_classes_and_come_last() -> None:
    labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 20)[torch.randperm(33, generator=torch.Generator().manual_seed(1))]
    order = left_out_last(labels, 12)
    assert sorted(order.tolist()) == list(range(33))
    assert torch.bincount(labels[order[-12:]]).tolist() in ([5, 3, 4], [4, 3, 5])
    assert order[:-12].tolist() == sorted(order[:-12].tolist())
    assert torch.equal(order, left_out_last(labels, 12))
    assert not torch.equal(order, left_out_last(labels, 12, seed=1))
    assert left_out_last(labels, 33).tolist() == list(range(33))
    gap = torch.tensor([0, 0, 2, 2])  # a class without a sample
    assert sorted(left_out_last(gap, 2).tolist()) == [0, 1, 2, 3]
