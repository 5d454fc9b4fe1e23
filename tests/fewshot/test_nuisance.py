"""The nuisance: found where it was planted, damped as its formula says, and nothing made of nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from crossgraft.fewshot.features import unit
from crossgraft.fewshot.nuisance import RANK, Nuisance, principal, within_class

torch.set_num_threads(1)


def planted(shots: int, strength: float, n: int = 6, f: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (n * shots, f), labels, and the one direction (f,) in which photos of a class differ by `strength`."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    labels = torch.arange(n).repeat(shots)
    direction = unit(normal(f))
    key = normal(n, f)[labels] + 0.1 * normal(len(labels), f) + strength * normal(len(labels), 1) * direction
    return key, labels, direction


def test_a_planted_direction_is_found_and_damped() -> None:
    key, labels, direction = planted(shots=4, strength=5.0)
    nuisance = within_class(key, labels, 6, 1.0)
    assert abs(nuisance.directions[0] @ direction) > 0.99
    assert nuisance.damping[0] > 0.8
    assert nuisance.damping[0] > 2 * nuisance.damping[1]
    removed = nuisance.remove(key)
    assert ((removed @ direction).abs().mean() < 0.35 * (unit(key - key.mean(dim=0)) @ direction).abs().mean()).item()
    torch.testing.assert_close(removed.norm(dim=1), torch.ones(24, dtype=torch.float64))


@pytest.mark.parametrize("shrinkage", [0.5, 5.0])
@pytest.mark.parametrize("shots", [2, 3])
def test_against_the_covariance_within_classes(shrinkage: float, shots: int) -> None:
    """All of its directions fit in the rank, so that it is a function of the full within-class covariance."""
    key, labels, _ = planted(shots, strength=1.0)
    nuisance = within_class(key, labels, 6, shrinkage)
    x, y = key.numpy(), labels.numpy()
    assert 6 * (shots - 1) <= RANK
    within = x - np.stack([x[y == c].mean(axis=0) for c in range(6)])[y]
    covariance = within.T @ within / (6 * (shots - 1))
    variance, axes = np.linalg.eigh(covariance)
    s = shrinkage * np.trace(covariance) / len(covariance)
    damp = axes @ np.diag(np.sqrt(s / (variance.clip(min=0) + s))) @ axes.T
    z = (x - x.mean(axis=0)) @ damp
    np.testing.assert_allclose(nuisance.remove(key), z / np.linalg.norm(z, axis=1, keepdims=True), atol=1e-9)


def test_a_larger_shrinkage_damps_less() -> None:
    key, labels, _ = planted(4, strength=1.0)
    first = [within_class(key, labels, 6, s).damping[0].item() for s in (0.1, 1.0, 10.0, 1e9)]
    assert first == sorted(first, reverse=True)
    assert first[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("same", [False, True])
def test_without_two_different_photos_of_a_class_keys_are_only_centred(same: bool) -> None:
    key, labels, _ = planted(1, strength=1.0)
    if same:
        key, labels = key.repeat(2, 1), labels.repeat(2)
    nuisance = within_class(key, labels, 6, 5.0)
    if not same:
        assert nuisance.directions.shape == (0, 40)
    centred = key - key.mean(dim=0)
    torch.testing.assert_close(nuisance.remove(key), unit(centred))


def test_a_key_at_the_mean_stays_finite() -> None:
    mean = torch.ones(3)
    assert Nuisance(mean, torch.eye(3)[:1], torch.ones(1)).remove(mean[None]).tolist() == [[0, 0, 0]]


def test_classes_without_a_sample_cost_no_freedom() -> None:
    key, labels, _ = planted(3, strength=1.0)
    few, many = within_class(key, labels, 6, 1.0), within_class(key, labels, 60, 1.0)
    torch.testing.assert_close(few.damping, many.damping)


@pytest.mark.parametrize(("m", "f"), [(200, 60), (5, 60), (60, 5)])
def test_principal_directions_are_the_first_of_a_full_decomposition(m: int, f: int) -> None:
    generator = torch.Generator().manual_seed(3)
    scale = 0.7 ** torch.arange(f, dtype=torch.float64)
    x = torch.randn(m, f, generator=generator, dtype=torch.float64) * scale
    directions, squared = principal(x, 4)
    _, values, axes = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(squared, values[:4].square())
    torch.testing.assert_close((directions @ axes[:4].T).abs(), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(principal(x, 4)[0], directions)
