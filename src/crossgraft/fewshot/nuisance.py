"""Directions in which photos of one class differ from each other: what a key says that the class does not.

A direct use of the within-class covariance of linear discriminant analysis (Fisher, 1936), kept to the few directions
that a handful of photos a class can show.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from crossgraft.fewshot.features import class_means, unit

RANK = 16  # more directions gained nothing (docs/xmadapter.md)


class Nuisance(NamedTuple):
    """A key x becomes unit(z - z D^T diag(damping) D) with z = x - mean.

    `mean` (f,), `directions` D (r, f) orthonormal rows, `damping` (r,) from 0 (kept) to 1 (gone). r = 0 where no class
    has two samples.
    """

    mean: Tensor
    directions: Tensor
    damping: Tensor

    def remove(self, key: Tensor) -> Tensor:
        """Unit keys (n, f) -> keys (n, f) of length one with the nuisance damped."""
        centred = key - self.mean
        return unit(centred - (centred @ self.directions.T * self.damping) @ self.directions)


def within_class(key: Tensor, labels: Tensor, n_classes: int, shrinkage: float) -> Nuisance:
    """The nuisance of support keys (M, f) with labels (M,).

    Along a direction in which photos of one class vary by v, keys are damped to sqrt(s / (v + s)) of their length: s is
    `shrinkage` times the mean variance over all f directions, which keeps what few samples show from being believed.
    """
    mean = key.mean(dim=0)
    deviations = key - class_means(key, labels, n_classes)[labels]
    freedom = len(key) - int((torch.bincount(labels, minlength=n_classes) > 0).sum())
    total = deviations.square().sum() / max(freedom, 1)
    rank = min(RANK, freedom, key.shape[1])
    if rank < 1 or not total > 0:
        return Nuisance(mean, key.new_zeros(0, key.shape[1]), key.new_zeros(0))
    directions, variance = principal(deviations, rank)
    ridge = shrinkage * total / key.shape[1]
    return Nuisance(mean, directions, 1 - torch.sqrt(ridge / (variance / freedom + ridge)))


def principal(x: Tensor, rank: int, iterations: int = 8) -> tuple[Tensor, Tensor]:
    """The first right singular vectors (rank, f) of x (M, f), and the squared singular values (rank,).

    By subspace iteration from a fixed start (Halko et al., SIAM Review 2011, algorithm 4.4): a full decomposition takes
    as long as all the rest of a fit.
    """
    width = min(rank + 8, *x.shape)
    start = torch.randn(x.shape[1], width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.linalg.qr(start.to(x))[0]
    for _ in range(iterations):
        basis = torch.linalg.qr(x.T @ (x @ basis))[0]
    _, values, rotation = torch.linalg.svd(x @ basis, full_matrices=False)
    return (rotation @ basis.T)[:rank], values[:rank].square()
