"""Held-out support photos: one of every class at a time.

Leaving out single photos weakens their own class only, which at few shots makes every class look worse than it is; at
two shots it turns the choice of any constant around. With one photo of every class gone, what is left is a support with
a shot less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossgraft.fewshot.features import Support

FOLDS = 4
"""At most so many are held out of each class, one after the other: fits to more cost time and change nothing."""

SAMPLES = 4096
"""A larger support is cut down to about so many, evenly over its classes, and to two a class at least."""


def one_of_every_class(support: Support) -> list[tuple[Support, Support]]:
    """(the rest, one sample of every class that has two or more) for each of up to `FOLDS` folds; [] at one shot."""
    turn, counts = _turns(support), support.counts[support.labels]
    kept = (
        turn < max(2, SAMPLES // support.n_classes) if len(turn) > SAMPLES else torch.ones_like(turn, dtype=torch.bool)
    )
    folds = []
    for fold in range(FOLDS):
        held_out = kept & (turn == fold) & (counts > 1)
        if held_out.any():
            folds.append((support.take(kept & ~held_out), support.take(held_out)))
    return folds


def _turns(support: Support) -> Tensor:
    """(M,) 0 for the first sample of its class, 1 for the second, and so on."""
    order = support.labels.argsort(stable=True)
    starts = support.counts.cumsum(0) - support.counts
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(order), device=order.device) - starts[support.labels[order]]
    return turn
