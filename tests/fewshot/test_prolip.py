"""ProLIP: its residual form against a tuned projection, and its limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import normal, problem
from torch.nn import functional

from crossgraft.fewshot import ProLIP, ZeroShot

torch.set_num_threads(1)

P = problem((1, 5, 2, 4), noise=0.8)


def make(**params: Any) -> ProLIP:
    return ProLIP(**{"text": P.text, "classes": P.classes, "logit_scale": 100.0, **params})


@pytest.mark.parametrize("counts", [(3, 3, 3, 3), (1, 5, 2, 4), (0, 3, 1, 2)])
def test_it_tunes_the_projection(counts: tuple[int, ...]) -> None:
    """With an encoder whose embedding is a projection of its feature, V itself is tuned, held to V_0 by 1 / K^2."""
    p = problem(counts, d=4, f=7)
    x, q = (torch.tensor(normal(a[:, 4:])) for a in (p.X, p.Q))
    v0 = torch.tensor(np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0][:4])
    # Projections of unit length, as estimators see them: the feature is stretched until its projection has it.
    x, q = (a / (a @ v0.T).norm(dim=1, keepdim=True) for a in (x, q))
    rows, t = torch.tensor([p.classes.index(label) for label in p.y]), torch.tensor(normal(p.text))
    shots = len(rows) / sum(count > 0 for count in counts)
    v = v0.clone().requires_grad_()
    optimizer = torch.optim.Adam([v], lr=0.01, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)
    unit_x = functional.normalize(x, dim=1)
    for _ in range(15):
        # (V - V_0) on the unit feature: what an estimator can see of it.
        tuned = functional.normalize(x @ v0.T + unit_x @ (v - v0).T, dim=1)
        loss = functional.cross_entropy(100 * tuned @ t.T, rows) + 2.0 / shots**2 * (v - v0).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    unit_q = functional.normalize(q, dim=1)
    expected = 100 * functional.normalize(q @ v0.T + unit_q @ (v - v0).T, dim=1) @ t.T
    fitted = ProLIP(text=p.text, classes=p.classes, lam=2.0, epochs=15, lr=0.01)
    fitted.fit(torch.cat([x @ v0.T, x], dim=1), p.y)
    actual = fitted.logits(torch.cat([q @ v0.T, q], dim=1))
    # The optimiser of the house decays weights by 0.01 lr a step, the one above does not.
    torch.testing.assert_close(actual, expected.detach(), rtol=0, atol=0.05)
    assert (actual - 100 * (q @ v0.T) @ t.T).abs().max() > 1
    assert fitted.n_parameters_ == 4 * 7


@pytest.mark.parametrize("params", [{"lam": 1e9}, {"epochs": 0}])
@pytest.mark.parametrize("scale", [16.0, 100.0])
def test_held_or_untrained_it_is_zero_shot(params: dict[str, Any], scale: float) -> None:
    expected = ZeroShot(text=P.text, classes=P.classes, logit_scale=scale).fit(P.X, P.y).logits(P.Q)
    actual = make(logit_scale=scale, **params).fit(P.X, P.y).logits(P.Q)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.01 * scale)


def test_training_lowers_the_loss_at_every_scale() -> None:
    targets = torch.tensor([P.classes.index(label) for label in P.y])
    for scale in (16.0, 100.0):
        before, after = (
            functional.cross_entropy(make(logit_scale=scale, epochs=epochs).fit(P.X, P.y).logits(P.X), targets)
            for epochs in (0, 300)
        )
        assert after < before / 2


def test_it_repeats() -> None:
    first, second = (make(epochs=20).fit(P.X, P.y) for _ in range(2))
    assert torch.equal(first.delta_, second.delta_)
    assert not first.delta_.requires_grad


def test_tuning_trains_what_it_sets() -> None:
    p = problem((2, 3, 2, 2), noise=1.2, seed=3)
    tuned = ProLIP(text=p.text, classes=p.classes, epochs=30).fit(p.X, p.y).tune(p.Q, p.y_query)
    scores = {}
    for lam in ProLIP.grid["lam"]:
        other = ProLIP(text=p.text, classes=p.classes, epochs=30, lam=lam).fit(p.X, p.y)
        scores[lam] = other.score(p.Q, p.y_query)
        if lam == tuned.lam:
            torch.testing.assert_close(other.logits(p.Q), tuned.logits(p.Q))
    assert scores[tuned.lam] == max(scores.values())


def test_without_texts() -> None:
    p = problem((3, 3, 3), noise=0.2, f=0)
    assert (ProLIP().fit(p.X, p.y).predict(p.Q) == p.y_query).mean() > 0.9
