"""Classes that learn from each other's photos, as far as their texts are alike: "red circle" from "red square".

A kernel over classes beside the one over photos (multi-task Gaussian processes: Bonilla et al., NeurIPS 2007; the texts
as the tasks' description): scores f have the prior covariance K(x, x') C(c, c') with

    C = (1 - share) I + share T T^T,

T (N, d) the class texts, centred, at unit length. With C = V diag(g) V^T the solution falls apart along the columns of
V, each a combination of classes: (K + diag(ridge) / g_j) a_j = R v_j, f = K_x sum_j a_j v_j^T. What many texts share
has a large g_j, so it is learned with less ridge; share = 0 gives each class a solution of its own. Every g is rounded
to a power of two, so that a factorisation is needed for each power only, a handful.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from crossgraft.fewshot.features import unit
from crossgraft.fewshot.ridge import factorise, leave_one_out, solve

_LEAST = 2.0**-10  # of g: what is below it is nearly no vote


class Group(NamedTuple):
    """Directions (N, n) of class space, orthonormal columns, of one prior variance; None stands for all of it."""

    variance: float
    directions: Tensor | None

    def turn(self, targets: Tensor) -> Tensor:
        """Targets (M, c, N) along the directions (M, c, n)."""
        return targets if self.directions is None else targets @ self.directions

    def turn_back(self, along: Tensor) -> Tensor:
        """What is along the directions (..., n), for the classes (..., N)."""
        return along if self.directions is None else along @ self.directions.T


def groups_of(text: Tensor, share: float) -> list[Group]:
    """Directions of class space by their prior variance, for class texts (N, d)."""
    if share == 0:
        return [Group(1.0, None)]
    centred = text.cpu().double() - text.cpu().double().mean(dim=0)  # MPS has no float64, and the rounding is delicate
    likeness = (unit(centred) @ unit(centred).T).fill_diagonal_(1)  # also where a text is the mean itself
    variances, directions = torch.linalg.eigh((1 - share) * torch.eye(len(text)).double() + share * likeness)
    octaves = variances.clamp(min=_LEAST).log2().round()
    found = octaves.unique().tolist()
    if len(found) == 1:
        return [Group(2.0 ** found[0], None)]
    return [Group(2.0**octave, directions[:, octaves == octave].to(text)) for octave in found]


def solve_coupled(kernel: Tensor, ridge: Tensor, groups: list[Group], targets: Tensor) -> Tensor:
    """Votes (M, c, N) of M samples for c sets of targets (M, c, N): their scores are kernel (n, M) times them.

    The kernel (M, M) counts with its lower triangle, and is overwritten; `ridge` (M,).
    """
    return _sum(group.turn_back(a) for group, _, a in _along(kernel, ridge, groups, targets))


def left_out_coupled(kernel: Tensor, ridge: Tensor, groups: list[Group], targets: Tensor) -> Tensor:
    """How far each sample's targets (M, 1, N) are off, predicted by all other samples, exactly (M, N)."""
    solved = _along(kernel, ridge, groups, targets)
    return _sum(group.turn_back(leave_one_out(factor, a[:, 0], len(a))) for group, factor, a in solved)


def _along(
    kernel: Tensor, ridge: Tensor, groups: list[Group], targets: Tensor
) -> Iterator[tuple[Group, Tensor, Tensor]]:
    """For each group the factor (M, M) and the solution (M, c, n) along its directions."""
    for group in groups:
        factor = factorise(kernel if len(groups) == 1 else kernel.clone(), ridge / group.variance)
        along = group.turn(targets)
        yield group, factor, solve(factor, along.flatten(1)).view(along.shape)


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)
