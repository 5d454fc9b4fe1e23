"""The trained cache: what training changes, counts, and the loop that trains it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_shot_problems import problem
from torch.nn import functional

from crossgraft.errors import CrossgraftError
from crossgraft.fewshot import TipAdapter, TipAdapterF
from crossgraft.fewshot.training import seeded, train

torch.set_num_threads(1)

P = problem((4, 4, 4, 4), noise=0.8)
TEXT = {"text": P.text, "classes": P.classes, "logit_scale": 10.0}


def test_without_an_epoch_it_is_tip_adapter() -> None:
    trained, plain = TipAdapterF(**TEXT, epochs=0).fit(P.X, P.y), TipAdapter(**TEXT).fit(P.X, P.y)
    assert torch.equal(trained.logits(P.Q), plain.logits(P.Q))


def test_training_lowers_the_loss_and_counts_its_keys() -> None:
    targets = torch.tensor([P.classes.index(label) for label in P.y])
    before = functional.cross_entropy(TipAdapter(**TEXT).fit(P.X, P.y).logits(P.X), targets)
    trained = TipAdapterF(**TEXT, lr=0.01).fit(P.X, P.y)
    assert functional.cross_entropy(trained.logits(P.X), targets) < before
    assert trained.n_parameters_ == 16 * 10
    assert not trained.keys_.requires_grad


def test_the_seed_decides_the_batches() -> None:
    first, second, other = (
        TipAdapterF(**TEXT, lr=0.01, batch_size=3, random_state=seed).fit(P.X, P.y).keys_ for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_loop_is_adamw_with_a_cosine() -> None:
    """One parameter, a constant gradient: AdamW's steps are lr * cosine * g / (|g| + eps), plus weight decay."""
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    train([x], lambda batch: 3 * x, 5, epochs=2, lr=0.1, batch_size=2, generator=seeded(0))
    expected = 0.0
    for step in range(6):
        rate = 0.1 * (1 + np.cos(np.pi * step / 6)) / 2
        expected = expected * (1 - rate * 0.01) - rate * 3 / (3 + 1e-4)
    assert x.item() == pytest.approx(expected, rel=1e-9)


def test_every_sample_is_seen_once_an_epoch() -> None:
    x, seen = torch.zeros((), requires_grad=True), []

    def loss(batch: torch.Tensor) -> torch.Tensor:
        seen.extend(batch.tolist())
        return x.square()

    train([x], loss, 7, epochs=2, lr=0.1, batch_size=3, generator=seeded(0))
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))
    assert seen[:7] != seen[7:]


def test_divergence_is_reported() -> None:
    x = torch.ones((), requires_grad=True)
    with pytest.raises(CrossgraftError, match="diverged"):
        train([x], lambda batch: x * torch.inf, 2, epochs=1, lr=0.1, batch_size=2, generator=seeded(0))
