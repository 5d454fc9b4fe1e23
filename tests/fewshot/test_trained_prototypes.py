"""CLAP and TaskRes against a direct computation in torch, and what they are without training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import Problem, normal, problem
from torch.nn import functional

from crossgraft.fewshot import CLAP, TaskRes, ZeroShot
from crossgraft.fewshot.clap import text_confidence
from crossgraft.fewshot.features import Support

torch.set_num_threads(1)

P = problem((1, 5, 2, 4), noise=0.8)


def make(kind: type[Any], p: Problem = P, **params: Any) -> Any:
    return kind(**{"text": p.text, "classes": p.classes, "logit_scale": 16.0, **params})


def by_hand(p: Problem, kind: type[Any], epochs: int, lr: float) -> np.ndarray:
    """All samples at each step, under PyTorch's own optimiser; the residual of CLAP is w - t, that of TaskRes x."""
    d, n = p.d, len(p.classes)
    rows = torch.tensor([p.classes.index(label) for label in p.y])
    parts = [torch.tensor(normal(a)) for a in (p.X[:, :d], p.Q[:, :d], p.text)]
    e, q, t = parts
    if p.X.shape[1] > d:
        e, q = (torch.cat([a, torch.tensor(normal(b[:, d:]))], dim=1) for a, b in ((e, p.X), (q, p.Q)))
    start = torch.cat([t, torch.zeros(n, e.shape[1] - d, dtype=t.dtype)], dim=1)
    own = [(16 * parts[0] @ t.T).softmax(1)[rows == c, c] for c in range(n)]
    known = torch.stack([s.mean() for s in own if len(s)]).mean()
    sure = torch.stack([s.mean() if len(s) else known for s in own])
    r = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.AdamW([r], lr=lr, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    scale = 1.0 if kind is CLAP else 0.5
    for _ in range(epochs):
        w = start + scale * r
        loss = functional.cross_entropy(16 * e @ functional.normalize(w, dim=1).T, rows)
        if kind is CLAP:
            loss = loss + (sure * ((w - start) ** 2).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return (16 * q @ functional.normalize(start + scale * r, dim=1).T).detach().numpy()


@pytest.mark.parametrize("kind", [CLAP, TaskRes])
@pytest.mark.parametrize(("counts", "f"), [((1, 5, 2, 4), 10), ((0, 3, 1, 2), 7), ((3, 3, 3, 3), 0)])
def test_training(kind: type[Any], counts: tuple[int, ...], f: int) -> None:
    p = problem(counts, f=f, noise=0.8)
    fitted = make(kind, p, epochs=20, lr=0.05).fit(p.X, p.y)
    np.testing.assert_allclose(fitted.logits(p.Q), by_hand(p, kind, 20, 0.05), rtol=1e-6, atol=1e-6)
    assert fitted.n_parameters_ == 4 * (p.d + f)
    assert not fitted.prototypes_.requires_grad


@pytest.mark.parametrize(
    ("kind", "params"), [(CLAP, {"epochs": 0}), (TaskRes, {"epochs": 0}), (TaskRes, {"alpha": 0.0})]
)
def test_untrained_it_is_zero_shot(kind: type[Any], params: dict[str, Any]) -> None:
    expected = make(ZeroShot).fit(P.X, P.y).logits(P.Q)
    torch.testing.assert_close(make(kind, **params).fit(P.X, P.y).logits(P.Q), expected)


def test_a_huge_penalty_holds_clap_to_the_texts() -> None:
    p = problem((1, 5, 2, 4), noise=0.3)  # the texts are right: a class that they never find is not held
    expected = make(ZeroShot, p).fit(p.X, p.y).logits(p.Q)
    held, free = (make(CLAP, p, lam=lam).fit(p.X, p.y).logits(p.Q) for lam in (1e6, 1e-6))
    assert (held - expected).abs().max() < 0.05
    assert (free - expected).abs().max() > 1


def test_confidence_of_the_texts() -> None:
    embedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    support = Support(embedding, embedding, torch.tensor([0, 0, 1]), text, text[:, None])
    p = (2 * embedding @ text.T).softmax(1)
    own = torch.stack([(p[0, 0] + p[1, 0]) / 2, p[2, 1]])
    torch.testing.assert_close(text_confidence(support, 2.0), torch.cat([own, own.mean()[None]]))


@pytest.mark.parametrize("kind", [CLAP, TaskRes])
def test_the_seed_decides_the_batches(kind: type[Any]) -> None:
    first, second, other = (
        make(kind, epochs=3, lr=0.01, batch_size=3, random_state=seed).fit(P.X, P.y).prototypes_ for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", [CLAP, TaskRes])
def test_tuning_trains_what_it_sets(kind: type[Any]) -> None:
    p = problem((2, 3, 2, 2), noise=1.2, seed=3)
    (name,) = kind.grid
    tuned = make(kind, p, epochs=20).fit(p.X, p.y).tune(p.Q, p.y_query)
    scores = {}
    for value in kind.grid[name]:
        other = make(kind, p, epochs=20, **{name: value}).fit(p.X, p.y)
        scores[value] = other.score(p.Q, p.y_query)
        if value == getattr(tuned, name):
            torch.testing.assert_close(other.logits(p.Q), tuned.logits(p.Q))
    assert scores[getattr(tuned, name)] == max(scores.values())


@pytest.mark.parametrize("kind", [CLAP, TaskRes])
def test_without_texts(kind: type[Any]) -> None:
    p = problem((3, 3, 3), noise=0.2, f=0)
    assert (kind().fit(p.X, p.y).predict(p.Q) == p.y_query).mean() > 0.9
