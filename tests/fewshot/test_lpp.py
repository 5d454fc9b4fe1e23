"""LP++ against plain gradient descent, and its start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_shot_problems import Problem, normal, problem

from crossgraft.fewshot import LPPlusPlus
from crossgraft.fewshot.lpp import step_sizes

torch.set_num_threads(1)


def parts(p: Problem) -> tuple[np.ndarray, ...]:
    d = p.d
    rows = np.array([p.classes.index(label) for label in p.y])
    return normal(p.X[:, :d]), normal(p.X[:, d:]), normal(p.Q[:, :d]), normal(p.Q[:, d:]), normal(p.text), rows


def by_hand(p: Problem, alpha: float, scale: float, steps: int) -> np.ndarray:
    """Descent on the features themselves, gradients sample by sample."""
    e, k, eq, kq, t, rows = parts(p)
    n, m = len(p.classes), len(k)
    counts = np.bincount(rows, minlength=n)
    w = np.stack([k[rows == c].mean(axis=0) if counts[c] else 0 * k[0] for c in range(n)]) * m / (counts > 0).sum()
    a, v = np.full(n, alpha * scale), np.zeros_like(w)
    lr = 4 * m / np.linalg.eigvalsh(k.T @ k)[-1]
    lr_a = m / (4 * ((e @ t.T) ** 2).sum(axis=0).max())
    for i in range(steps):
        gw, ga = np.zeros_like(w), np.zeros_like(a)
        for j in range(m):
            z = w @ k[j] + a * (t @ e[j])
            error = np.exp(z - z.max()) / np.exp(z - z.max()).sum() - np.eye(n)[rows[j]]
            gw += np.outer(error, k[j]) / m
            ga += error * (t @ e[j]) / m
        v = 0.9 * v + gw
        w = w - lr * v
        if i % 10 == 9:
            a = a - lr_a * ga
    return kq @ w.T + a * (eq @ t.T)


@pytest.mark.parametrize("counts", [(3, 3, 3, 3), (1, 5, 2, 4), (0, 3, 1, 2)])
@pytest.mark.parametrize("f", [4, 30])  # fewer and more features than samples
def test_descent(counts: tuple[int, ...], f: int) -> None:
    p = problem(counts, f=f)
    fitted = LPPlusPlus(text=p.text, classes=p.classes, logit_scale=16.0, alpha=0.3, epochs=25).fit(p.X, p.y)
    np.testing.assert_allclose(fitted.logits(p.Q), by_hand(p, 0.3, 16.0, 25), rtol=1e-7, atol=1e-7)
    assert fitted.n_parameters_ == 4 * (f + 1)


def test_without_a_step_it_is_the_class_sums_beside_the_texts() -> None:
    p = problem((3, 3, 3))
    _, k, eq, kq, t, rows = parts(p)
    sums = np.stack([k[rows == c].sum(axis=0) for c in range(3)])
    fitted = LPPlusPlus(text=p.text, classes=p.classes, logit_scale=16.0, epochs=0).fit(p.X, p.y)
    np.testing.assert_allclose(fitted.logits(p.Q), kq @ sums.T + 8 * eq @ t.T, atol=1e-9)


def test_the_loss_falls() -> None:
    p = problem((4, 4, 4, 4), noise=2.0)
    targets = torch.tensor([p.classes.index(label) for label in p.y])
    losses = [
        torch.nn.functional.cross_entropy(
            LPPlusPlus(text=p.text, classes=p.classes, logit_scale=4.0, epochs=epochs).fit(p.X, p.y).logits(p.X),
            targets,
        ).item()
        for epochs in (0, 30, 300)
    ]
    assert losses[0] > losses[1] > losses[2]


def test_steps_of_nothing_are_finite() -> None:
    assert all(torch.isfinite(step) for step in step_sizes(torch.zeros(3, 2), torch.zeros(3, 4)))


def test_without_texts_and_with_a_shared_key() -> None:
    p = problem((3, 3, 3), noise=0.2, f=0)
    assert (LPPlusPlus().fit(p.X, p.y).predict(p.Q) == p.y_query).mean() > 0.9


def test_tuning_solves_what_it_sets() -> None:
    p = problem((2, 3, 2, 2), noise=1.2, seed=3)
    tuned = LPPlusPlus(text=p.text, classes=p.classes).fit(p.X, p.y).tune(p.Q, p.y_query)
    again = LPPlusPlus(text=p.text, classes=p.classes, alpha=tuned.alpha).fit(p.X, p.y)
    torch.testing.assert_close(tuned.logits(p.Q), again.logits(p.Q))
    for alpha in LPPlusPlus.grid["alpha"]:
        other = LPPlusPlus(text=p.text, classes=p.classes, alpha=alpha).fit(p.X, p.y)
        assert other.score(p.Q, p.y_query) <= tuned.score(p.Q, p.y_query)
