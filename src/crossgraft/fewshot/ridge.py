"""Kernel ridge regression: (K + diag(lam)) a = R by one Cholesky factorisation, with leave-one-out at no cost.

The factor L of K + diag(lam) is all that is computed in M^3 time; a costs two triangular solves. The exact
leave-one-out error of sample i is a_i / inv_ii (Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006,
section 5.4.2), where inv = L^-T L^-1 would cost as much again, twice. But the columns of L^-1 that belong to the last n
samples are zero above them, so the last n x n block of inv is that of the last n x n block of L alone. So whoever needs
leave-one-out puts the samples that are to be left out last (`left_out_last`), and gets it in n^3 time.

Matrices are filled, factorised and solved in place: the peak is one M x M matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crossgraft.errors import InputError

LEFT_OUT = 2048
"""Samples that leave-one-out looks at, where there are more: a temperature or a ratio needs no more to be found."""

_TILE = 512  # a strip of the kernel then stays in the processor's cache while it is made


def left_out_last(labels: Tensor, n: int = LEFT_OUT, seed: int = 0) -> Tensor:
    """An order (M,) of samples with labels (M,) in which the last n are spread evenly over the classes.

    They are drawn class by class in turn, so each class has as many among them as its size allows, one more or less.
    The rest, and the drawn ones among themselves, keep their order. With M <= n it is the order they have.
    """
    m = len(labels)
    if m <= n:
        return torch.arange(m, device=labels.device)
    shuffled = torch.randperm(m, generator=torch.Generator().manual_seed(seed)).to(labels.device)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = torch.bincount(labels)
    turn = torch.arange(m, device=labels.device) - (counts.cumsum(0) - counts)[labels[by_class]]
    drawn = torch.zeros(m, dtype=torch.int64, device=labels.device)
    drawn[by_class[turn.argsort(stable=True)[:n]]] = 1
    return drawn.argsort(stable=True)


def gram(block: Callable[[slice, slice], Tensor], m: int, like: Tensor) -> Tensor:
    """The lower triangle of a symmetric kernel matrix (m, m), for `factorise`; above it is nothing of use.

    Args:
        block: two ranges of samples (i, j) -> their kernel (i, j). It is asked for tiles, so that no second M x M
            matrix is needed, and for half of them, because a kernel is symmetric.
        like: gives dtype and device.
    """
    kernel = like.new_empty(m, m).mT  # column by column, as LAPACK wants it: it is factorised where it is
    for columns in _panels(m):
        kernel[columns.start :, columns] = block(columns, slice(columns.start, m)).mT
    return kernel


def _panels(m: int) -> list[slice]:
    """0 to m in ranges of `_TILE`."""
    return [slice(start, min(start + _TILE, m)) for start in range(0, m, _TILE)]


def factorise(kernel: Tensor, lam: float | Tensor) -> Tensor:
    """L (M, M) of K + diag(lam) = L L^T, in the place of the kernel (M, M), of which the lower triangle counts.

    So does the lower triangle of L alone. lam is a number, or one a sample (M,). Panel by panel, because nearly all of
    the work is then matrix products, which are faster than LAPACK's factorisation.

    Raises:
        InputError: K + diag(lam) is not positive definite.
    """
    kernel.diagonal().add_(lam)
    m = len(kernel)
    for cut in _panels(m):
        start, stop = cut.start, cut.stop
        panel = kernel[start:, start:stop]
        if start:
            panel.addmm_(kernel[start:, :start], kernel[start:stop, :start].T, alpha=-1)
        corner, failed = torch.linalg.cholesky_ex(panel[: stop - start])
        if failed:
            raise InputError("the kernel matrix cannot be inverted; use a larger lam")
        panel[: stop - start] = corner
        if stop < m:
            panel[stop - start :] = torch.linalg.solve_triangular(
                corner.mT, panel[stop - start :], upper=True, left=False
            )
    return kernel


def solve(factor: Tensor, residual: Tensor) -> Tensor:
    """a (M, N) with L L^T a = R, for the factor L (M, M) and R (M, N). Panel by panel, as `factorise`."""
    solved, panels = residual.clone(), _panels(len(factor))
    for cut in panels:
        block = solved[cut].addmm_(factor[cut, : cut.start], solved[: cut.start], alpha=-1)
        solved[cut] = torch.linalg.solve_triangular(factor[cut, cut], block, upper=False)
    for cut in reversed(panels):
        block = solved[cut].addmm_(factor[cut.stop :, cut].T, solved[cut.stop :], alpha=-1)
        solved[cut] = torch.linalg.solve_triangular(factor[cut, cut].mT, block, upper=True)
    return solved


def last_inverse(factor: Tensor, n: int) -> Tensor:
    """The last n x n block of (L L^T)^-1, from the factor L (M, M) in n^3 time; all of it for n = M in M^3."""
    return torch.cholesky_inverse(factor[len(factor) - n :, len(factor) - n :])


def leave_one_out(factor: Tensor, coef: Tensor, n: int) -> Tensor:
    """What each of the last n samples' target is off, predicted by all other samples: e_i = a_i / inv_ii (n, N).

    Exact, from the factor L (M, M) and the solution a (M, N); subtract it from the targets to get the predictions.
    """
    return coef[len(coef) - n :] / last_inverse(factor, n).diagonal()[:, None]
