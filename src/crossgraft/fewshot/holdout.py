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

CLASSES, SAMPLES = 256, 2048
"""A support of more classes, or of more samples, is cut down to about so many: a constant needs no more to be found."""


def one_of_every_class(support: Support) -> list[tuple[Support, Support]]:
    """(the rest, one sample of every class that has two or more) for each of up to `FOLDS` folds; [] at one shot.

    Of more than `CLASSES` classes, so many of those that have most samples, in a fixed random order, with rows of their
    own; of more than `SAMPLES` samples, equally many of each class, and two at least.
    """
    if support.n_classes > CLASSES:
        support = _fewer_classes(support)
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


def _fewer_classes(support: Support) -> Support:
    shuffled = torch.randperm(support.n_classes, generator=torch.Generator().manual_seed(0)).to(support.labels.device)
    # Classes with nothing to hold out come last: they are looked at only if there are no others.
    enough = support.counts[shuffled].clamp(max=2).argsort(descending=True, stable=True)
    classes = shuffled[enough[:CLASSES]].sort().values
    row = torch.full((support.n_classes,), -1, device=classes.device).scatter(
        0, classes, torch.arange(CLASSES).to(classes)
    )
    chosen = row[support.labels] >= 0
    taken = support.take(chosen)
    return Support(taken.embedding, taken.key, row[taken.labels], support.text[classes], support.texts[classes])


def _turns(support: Support) -> Tensor:
    """(M,) 0 for the first sample of its class, 1 for the second, and so on."""
    order = support.labels.argsort(stable=True)
    starts = support.counts.cumsum(0) - support.counts
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(order), device=order.device) - starts[support.labels[order]]
    return turn
