"""Solvers in closed form against their definitions, written out with NumPy, and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_shot_problems import Problem, normal, problem
from sklearn.linear_model import LogisticRegression

from crossgraft.fewshot import GDA, LinearProbe, NearestMean, ProKeR, TipAdapter, ZeroShot
from crossgraft.fewshot.cache import entropy_ratio, shares, vote_weights

torch.set_num_threads(1)

P = problem((3, 3, 3, 3))


def parts(p: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unit support embeddings and keys, query embeddings and keys, texts, class rows."""
    d, rows = p.d, np.array([p.classes.index(label) for label in p.y])
    return normal(p.X[:, :d]), normal(p.X[:, d:]), normal(p.Q[:, :d]), normal(p.Q[:, d:]), normal(p.text), rows


def test_zero_shot() -> None:
    _, _, e, _, w, _ = parts(P)
    logits = ZeroShot(text=P.text, classes=P.classes, logit_scale=20.0).fit(P.X, P.y).logits(P.Q)
    np.testing.assert_allclose(logits, 20 * e @ w.T, atol=1e-9)


def test_nearest_mean() -> None:
    _, k, _, q, _, y = parts(P)
    means = normal(np.stack([k[y == c].mean(axis=0) for c in range(4)]))
    logits = NearestMean(text=P.text, classes=P.classes, logit_scale=20.0).fit(P.X, P.y).logits(P.Q)
    np.testing.assert_allclose(logits, 20 * q @ means.T, atol=1e-9)


@pytest.mark.parametrize("counts", [(3, 3, 3), (4, 4), (1, 4, 2)])
@pytest.mark.parametrize("balanced", [False, True])
def test_linear_probe_is_scikit_learns(counts: tuple[int, ...], balanced: bool) -> None:
    p = problem(counts)
    _, k, _, q, _, y = parts(p)
    mine = LinearProbe(text=p.text, classes=p.classes, C=5.0, balanced=balanced).fit(p.X, p.y)
    theirs = LogisticRegression(C=5.0, max_iter=1000, class_weight="balanced" if balanced else None).fit(k, y)
    np.testing.assert_allclose(mine.predict_proba(p.Q), theirs.predict_proba(q), atol=1e-9)
    assert mine.n_parameters_ == len(counts) * (k.shape[1] + 1)


@pytest.mark.parametrize("counts", [(3, 3, 3, 3), (1, 4, 2, 6)])
@pytest.mark.parametrize("balanced", [False, True])
def test_tip_adapter(counts: tuple[int, ...], balanced: bool) -> None:
    p = problem(counts)
    _, k, e, q, w, y = parts(p)
    values = np.eye(4)[y]
    if balanced:
        values *= np.mean(counts) / np.array(counts)
    expected = 9 * e @ w.T + 2 * np.exp(-3 * (1 - q @ k.T)) @ values
    tip = TipAdapter(text=p.text, classes=p.classes, logit_scale=9.0, alpha=2.0, beta=3.0, balanced=balanced)
    np.testing.assert_allclose(tip.fit(p.X, p.y).logits(p.Q), expected, atol=1e-9)


@pytest.mark.parametrize(("counts", "f"), [((3, 3, 3, 3), 10), ((3, 3, 3, 3), 30), ((1, 4, 2, 6), 9)])
def test_gda(counts: tuple[int, ...], f: int) -> None:
    """The published formula, with more samples than features (solved directly) and fewer (solved by Woodbury)."""
    p = problem(counts, f=f)
    _, k, e, q, w, y = parts(p)
    means = np.stack([k[y == c].mean(axis=0) for c in range(4)])
    single = np.bincount(y)[y] == 1
    centred = k - np.where(single[:, None], k.mean(axis=0), means[y])
    scatter = centred.T @ centred / (len(k) - 1)
    inverse = f * np.linalg.pinv((len(k) - 1) * scatter + np.trace(scatter) * np.eye(f))
    weight = means @ inverse
    bias = np.log(1 / 4) - 0.5 * np.einsum("nf,fg,ng->n", means, inverse, means)
    expected = 9 * e @ w.T + 0.5 * (q @ weight.T + bias)
    gda = GDA(text=p.text, classes=p.classes, logit_scale=9.0, alpha=0.5).fit(p.X, p.y)
    # The uniform prior's log(1/N) is the same for all classes and left out.
    np.testing.assert_allclose(gda.logits(p.Q), expected - 0.5 * np.log(1 / 4), rtol=1e-8)


def test_gda_with_one_shot_uses_the_total_scatter() -> None:
    p = problem((1, 1, 1, 1))
    _, k, _, _, _, _ = parts(p)
    gda = GDA(text=p.text, classes=p.classes).fit(p.X, p.y)
    total = (k - k.mean(axis=0)).T @ (k - k.mean(axis=0))
    inverse = 10 * np.linalg.inv(total + np.trace(total) / 3 * np.eye(10))
    rows = [p.y.tolist().index(label) for label in p.classes]
    np.testing.assert_allclose(gda.weight_, k[rows] @ inverse, rtol=1e-8)


def test_gda_without_a_separate_key_is_one_product_of_the_same_logits() -> None:
    p = problem((3, 3, 3, 3), d=10, f=0)
    gda = GDA(text=p.text, classes=p.classes, logit_scale=9.0, alpha=0.5).fit(p.X, p.y)
    expected = 9 * normal(p.Q) @ normal(p.text).T + 0.5 * (normal(p.Q) @ gda.weight_.numpy().T + gda.bias_.numpy())
    np.testing.assert_allclose(gda.logits(p.Q), expected, rtol=1e-8)


def test_gda_of_identical_samples_is_finite() -> None:
    gda = GDA().fit(np.ones((4, 3)), [0, 0, 1, 1])
    assert torch.isfinite(gda.logits(np.eye(3))).all()


def kernel(a: np.ndarray, b: np.ndarray, beta: float) -> np.ndarray:
    return np.exp(-beta * (1 - a @ b.T))


@pytest.mark.parametrize("counts", [(3, 3, 3, 3), (1, 5, 2, 4)])
@pytest.mark.parametrize("balanced", [False, True])
def test_proker(counts: tuple[int, ...], balanced: bool) -> None:
    p = problem(counts)
    e0, k, e, q, w, y = parts(p)
    prior, queries = 0.3 * e0 @ w.T, 0.3 * e @ w.T
    ridge = 0.1 * (np.bincount(y)[y] / np.mean(counts) if balanced else np.ones(len(y)))
    a = np.linalg.solve(kernel(k, k, 2.0) + np.diag(ridge), np.eye(4)[y] - prior)
    proker = ProKeR(text=p.text, classes=p.classes, logit_scale=30.0, beta=2.0, lam=0.1, balanced=balanced)
    proker.fit(p.X, p.y)
    expected = proker.temperature_.item() * (queries + kernel(q, k, 2.0) @ a)
    np.testing.assert_allclose(proker.logits(p.Q), expected, atol=1e-9)


def test_prokers_temperature_has_the_lowest_leave_one_out_cross_entropy() -> None:
    e0, k, _, _, w, y = parts(P)
    proker = ProKeR(text=P.text, classes=P.classes, logit_scale=30.0, beta=2.0, lam=0.1).fit(P.X, P.y)
    target = torch.tensor(np.eye(4)[y])
    K = torch.tensor(kernel(k, k, 2.0))
    inverse = torch.linalg.inv(K + 0.1 * torch.eye(len(K)))
    scores = target - inverse @ (target - torch.tensor(0.3 * e0 @ w.T)) / inverse.diagonal()[:, None]

    def loss(t: float) -> float:
        return torch.nn.functional.cross_entropy(t * scores, torch.tensor(y)).item()

    best = proker.temperature_.item()
    assert 1 <= best <= 100
    assert all(loss(best) <= loss(t) for t in (best / 1.3, best * 1.3) if 1 <= t <= 100)


def test_vote_weights_cancel_imbalance() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    weights = vote_weights(labels, 3, balanced=True, dtype=torch.float64)
    assert torch.bincount(labels, weights=weights).tolist() == [2, 0, 2]
    assert vote_weights(labels, 3, balanced=False, dtype=torch.float64).tolist() == [1, 1, 1, 1]


def test_shares_and_entropy_ratio() -> None:
    image = torch.tensor([[3.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    text = torch.tensor([[1.0, 1.0], [2.0, 2.0], [1.0, 1.0], [0.0, 4.0]])
    assert shares(image).tolist() == [[0.75, 0.25], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]
    h = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    g = entropy_ratio(image, text)[:, 0].tolist()
    assert g == pytest.approx([np.log(2) / (h + np.log(2)), 0.5, 1.0, 0.5])
