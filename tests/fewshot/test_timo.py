"""TIMO: the two directions of guidance against a direct computation, and GDA as its limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_shot_problems import Problem, normal, problem

from crossgraft.fewshot import TIMO
from crossgraft.fewshot.timo import guided_text

torch.set_num_threads(1)


def several(p: Problem, n: int = 3, gap: bool = True) -> np.ndarray:
    """(N, n, d) texts around the problem's own; the first class has one fewer if `gap`."""
    rng = np.random.default_rng(1)
    texts = p.text[:, None] + 0.4 * rng.normal(size=(len(p.text), n, p.d))
    if gap:
        texts[0, -1] = 0
    return texts


def by_hand(p: Problem, texts: np.ndarray, alpha: float, gamma: float, scale: float) -> np.ndarray:
    """Class by class and text by text; the covariance as GDA's paper writes it."""
    d, shared = p.d, p.X.shape[1] == p.d
    e, q = normal(p.X[:, :d]), normal(p.Q[:, :d])
    x, xq = (e, q) if shared else (np.hstack([a, normal(b[:, d:])]) for a, b in ((e, p.X), (q, p.Q)))
    rows = np.array([p.classes.index(label) for label in p.y])
    seen = np.bincount(rows, minlength=len(p.classes)) > 0
    overall = np.mean([x[rows == c].mean(axis=0) for c in range(len(seen)) if seen[c]], axis=0)
    guided, samples, labels = [], [x], [rows]
    for c in range(len(p.classes)):
        mine = [t / np.linalg.norm(t) for t in texts[c] if np.any(t)]
        mean = e[rows == c].mean(axis=0) if seen[c] else None
        score = np.array([t @ mean / np.linalg.norm(mean) if mean is not None else 1.0 for t in mine])
        logits = gamma * score / np.linalg.norm(score)
        weight = np.exp(logits - logits.max())
        total = sum(w * t for w, t in zip(weight, mine, strict=True))
        guided.append(total / np.linalg.norm(total))
        key = (x[rows == c].mean(axis=0) if seen[c] else overall)[d:]
        for s, t in zip(score, mine, strict=True):
            samples.append(np.append(s * t, [] if shared else key)[None])
            labels.append(np.array([c]))
    x, rows = np.concatenate(samples), np.concatenate(labels)
    means = np.stack([x[rows == c].mean(axis=0) for c in range(len(p.classes))])
    single = np.bincount(rows)[rows] == 1
    centred = x - np.where(single[:, None], x.mean(axis=0), means[rows])
    scatter = centred.T @ centred
    f = x.shape[1]
    inverse = f * np.linalg.pinv(scatter + np.trace(scatter) / (len(x) - 1) * np.eye(f))
    w = means @ inverse
    b = -0.5 * np.einsum("nf,nf->n", w, means)
    return scale * q @ np.stack(guided).T + alpha * (xq @ w.T + b)


@pytest.mark.parametrize("counts", [(3, 3, 3, 3), (1, 5, 2, 4), (0, 3, 1, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize("f", [0, 5, 30])
def test_formula(counts: tuple[int, ...], f: int) -> None:
    p = problem(counts, f=f)
    texts = several(p)
    fitted = TIMO(text=texts, classes=p.classes, logit_scale=16.0, alpha=0.7, gamma=9.0).fit(p.X, p.y)
    np.testing.assert_allclose(fitted.logits(p.Q), by_hand(p, texts, 0.7, 9.0, 16.0), rtol=1e-6, atol=1e-7)
    assert fitted.n_parameters_ == 0


def test_one_text_a_class_guides_nothing() -> None:
    p = problem((2, 3, 1, 4))
    fitted = TIMO(text=p.text, classes=p.classes).fit(p.X, p.y)
    torch.testing.assert_close(fitted.guided_text_, fitted.text_)


def test_gamma_zero_is_the_mean_and_a_large_gamma_the_nearest_text() -> None:
    texts = torch.nn.functional.normalize(torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    texts[1, 2] = 0
    scores = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.1, 0.0]])
    mean = torch.nn.functional.normalize(texts.sum(dim=1), dim=1)
    torch.testing.assert_close(guided_text(texts, scores, 0.0), mean)
    torch.testing.assert_close(guided_text(texts, scores, 1e4), torch.stack([texts[0, 1], texts[1, 0]]))


def test_texts_of_nothing_do_not_make_it_nan() -> None:
    fitted = TIMO().fit(np.array([[1.0, 0], [-1, 0], [0, 1], [0, 1]]), [0, 0, 1, 1])  # the mean of class 0 is zero
    assert torch.isfinite(fitted.logits(np.eye(2))).all()


def test_tuning_scores_what_it_sets() -> None:
    p = problem((2, 3, 2, 2), noise=1.2, seed=3)
    texts = several(p)
    tuned = TIMO(text=texts, classes=p.classes).fit(p.X, p.y).tune(p.Q, p.y_query)
    again = TIMO(text=texts, classes=p.classes, alpha=tuned.alpha, gamma=tuned.gamma).fit(p.X, p.y)
    torch.testing.assert_close(tuned.logits(p.Q), again.logits(p.Q))
    best = (tuned.predict(p.Q) == p.y_query).mean()
    for alpha in TIMO.grid["alpha"]:
        other = TIMO(text=texts, classes=p.classes, alpha=alpha).fit(p.X, p.y)
        assert (other.predict(p.Q) == p.y_query).mean() <= best
