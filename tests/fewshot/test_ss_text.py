"""SS-Text against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_shot_problems import Problem, normal, problem

from crossgraft.fewshot import SSText, ZeroShot

torch.set_num_threads(1)


def by_hand(p: Problem, lam: float, scale: float) -> np.ndarray:
    """Logits of the queries, one class at a time."""
    d = p.d
    split = [normal(x[:, :d]) for x in (p.X, p.Q)]
    x, q = (np.hstack([e, normal(all_[:, d:])]) for e, all_ in zip(split, (p.X, p.Q), strict=True))
    columns = []
    for c, label in enumerate(p.classes):
        mine = x[p.y == label]
        w = np.append(normal(p.text)[c], np.zeros(x.shape[1] - d))
        if len(mine):
            lam_c = lam / len(mine)
            w = w + mine.sum(axis=0) / (len(x) * lam_c * 0.01)
        columns.append(scale * q @ w / np.linalg.norm(w))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("counts", [(3, 3, 3, 3), (1, 5, 2, 4), (0, 3, 1, 0)])
@pytest.mark.parametrize(("lam", "scale"), [(1.0, 100.0), (0.3, 16.0)])
def test_formula(counts: tuple[int, ...], lam: float, scale: float) -> None:
    p = problem(counts)
    fitted = SSText(text=p.text, classes=p.classes, logit_scale=scale, lam=lam).fit(p.X, p.y)
    np.testing.assert_allclose(fitted.logits(p.Q), by_hand(p, lam, scale), atol=1e-9)
    assert fitted.n_parameters_ == 0


def test_an_embedding_that_is_its_own_key_gives_the_published_rule() -> None:
    p = problem((2, 3, 1), d=6, f=0)
    e, q, t = normal(p.X), normal(p.Q), normal(p.text)
    rows = np.array([p.classes.index(label) for label in p.y])
    w = np.stack([t[c] + 100 * (rows == c).sum() / len(e) * e[rows == c].sum(axis=0) for c in range(3)])
    fitted = SSText(text=p.text, classes=p.classes).fit(p.X, p.y)
    assert fitted.prototypes_.shape == (3, 6)
    np.testing.assert_allclose(fitted.logits(p.Q), 100 * q @ normal(w).T, atol=1e-9)


def test_without_images_or_with_a_huge_lam_the_text_decides() -> None:
    p = problem((0, 3, 1, 2))
    zero_shot = ZeroShot(text=p.text, classes=p.classes).fit(p.X, p.y).logits(p.Q)
    fitted = SSText(text=p.text, classes=p.classes).fit(p.X, p.y)
    torch.testing.assert_close(fitted.logits(p.Q)[:, 0], zero_shot[:, 0])
    held = SSText(text=p.text, classes=p.classes, lam=1e12).fit(p.X, p.y)
    torch.testing.assert_close(held.logits(p.Q), zero_shot, rtol=0, atol=1e-6)


def test_without_texts_it_is_the_nearest_mean_of_two_parts() -> None:
    p = problem((3, 3, 3), noise=0.2, f=0)
    assert (SSText().fit(p.X, p.y).predict(p.Q) == p.y_query).mean() > 0.9


def test_tuning_takes_the_lam_that_validates_best() -> None:
    p = problem((2, 2, 2, 2), noise=1.2, seed=3)
    tuned = SSText(text=p.text, classes=p.classes).fit(p.X, p.y).tune(p.Q, p.y_query)

    def accuracy(lam: float) -> float:
        return (by_hand(p, lam, 100.0).argmax(axis=1) == [p.classes.index(y) for y in p.y_query]).mean()

    assert accuracy(tuned.lam) == max(accuracy(lam) for lam in SSText.grid["lam"])
    np.testing.assert_allclose(tuned.logits(p.Q), by_hand(p, tuned.lam, 100.0), atol=1e-9)
