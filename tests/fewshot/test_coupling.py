"""The kernel over classes: what it is made of, and its solution against refits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossgraft.fewshot.coupling import groups_of, left_out_coupled, solve_coupled

M, N = 9, 5
RNG = np.random.default_rng(0)
TEXT = torch.from_numpy(RNG.normal(size=(N, 4)))
X = torch.from_numpy(RNG.normal(size=(M, 3)))
KERNEL = X @ X.T + 0.1 * torch.eye(M)
RIDGE = torch.linspace(0.1, 0.5, M).double()
TARGETS = torch.from_numpy(RNG.normal(size=(M, 1, N)))


def between(share: float, text: torch.Tensor = TEXT) -> torch.Tensor:
    """C (N, N)."""
    whole = torch.eye(len(text)).double()
    return sum((g * (whole if v is None else v @ v.T) for g, v in groups_of(text, share)), torch.zeros_like(whole))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.98, 1.0])
def test_groups_are_the_kernel_within_half_an_octave(share: float) -> None:
    groups = groups_of(TEXT, share)
    whole = torch.cat([torch.eye(N).double() if v is None else v for _, v in groups], dim=1)
    torch.testing.assert_close(whole.T @ whole, torch.eye(N).double())
    centred = torch.nn.functional.normalize(TEXT - TEXT.mean(dim=0), dim=1)
    exact = (1 - share) * torch.eye(N).double() + share * centred @ centred.T
    got, expected = (torch.linalg.eigvalsh(c).clamp(min=2.0**-10) for c in (between(share), exact))
    assert ((got / expected).log2().abs() <= 0.5 + 1e-9).all()
    assert len({g for g, _ in groups}) == len(groups)


def test_no_share_and_texts_that_say_nothing_couple_nothing() -> None:
    for text, share in ((TEXT, 0.0), (torch.ones(N, 4).double(), 0.9), (torch.zeros(N, 4).double(), 1.0)):
        torch.testing.assert_close(between(share, text), torch.eye(N).double())
        assert len(groups_of(text, share)) == 1


@pytest.mark.parametrize("share", [0.0, 0.7, 0.98])
def test_the_solution_is_that_of_all_classes_in_one_system(share: float) -> None:
    c = between(share)
    system = torch.kron(KERNEL, c) + torch.kron(RIDGE.diag(), torch.eye(N).double())
    expected = torch.linalg.solve(system, TARGETS.flatten()).view(M, N) @ c
    votes = solve_coupled(KERNEL.clone(), RIDGE, groups_of(TEXT, share), TARGETS)
    torch.testing.assert_close(votes[:, 0], expected)
    two = solve_coupled(KERNEL.clone(), RIDGE, groups_of(TEXT, share), torch.cat([TARGETS, 2 * TARGETS], dim=1))
    torch.testing.assert_close(two, torch.stack([expected, 2 * expected], dim=1))


@pytest.mark.parametrize("share", [0.0, 0.7, 0.98])
def test_left_out_is_a_refit_without_the_sample(share: float) -> None:
    groups = groups_of(TEXT, share)
    errors = left_out_coupled(KERNEL.clone(), RIDGE, groups, TARGETS)
    for i in range(M):
        rest = torch.arange(M) != i
        votes = solve_coupled(KERNEL[rest][:, rest].clone(), RIDGE[rest], groups, TARGETS[rest])[:, 0]
        torch.testing.assert_close(TARGETS[i, 0] - errors[i], KERNEL[i, rest] @ votes)
