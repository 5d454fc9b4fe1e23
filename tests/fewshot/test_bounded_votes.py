"""Bounds on a cache's votes: they hold, and what they predict is what all the votes predict."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossgraft.fewshot import TipAdapter
from crossgraft.fewshot import bounded_votes as module
from crossgraft.fewshot.bounded_votes import BoundedVotes
from crossgraft.fewshot.cache import affinity, vote_weights, votes
from crossgraft.fewshot.features import unit

torch.set_num_threads(1)

N, D = 40, 24


def cache(counts: Tensor, spread: float, seed: int = 0, n_query: int = 300) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys (M, D), labels (M,), queries (n, D) and texts (N, D) of clustered classes, unit, float64; M shuffled."""
    g = torch.Generator().manual_seed(seed)
    centres = unit(torch.randn(N, D, generator=g, dtype=torch.float64))

    def near(rows: Tensor) -> Tensor:
        noise = unit(torch.randn(len(rows), D, generator=g, dtype=torch.float64))
        return unit(centres[rows] + spread * noise)

    labels = torch.arange(N).repeat_interleave(counts)[torch.randperm(int(counts.sum()), generator=g)]
    return near(labels), labels, near(torch.randint(N, (n_query,), generator=g)), near(torch.arange(N))


COUNTS = {"equal": torch.full((N,), 8), "unequal": torch.arange(N) % 7, "large": torch.full((N,), 3 * D)}


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("beta", [0.0, 1.0, 5.5, 20.0])
def test_votes_lie_between_the_bounds(counts: str, beta: float) -> None:
    keys, labels, queries, _ = cache(COUNTS[counts], 1.0)
    weights = vote_weights(labels, N, balanced=True, dtype=keys.dtype)
    bounded = BoundedVotes.of(keys, labels, weights, N, beta)
    # Besides the queries, the keys' own deviations: the directions in which the bounds are tightest.
    own = unit(keys - bounded.means[labels])
    for query in (queries, own, -own):
        exact = votes(affinity(query @ keys.T, beta), weights, labels, N)
        shared = affinity(query @ bounded.means.T, beta)
        assert (shared * bounded.lower <= exact * (1 + 1e-9)).all()
        assert (exact <= shared * bounded.upper * (1 + 1e-9)).all()


def test_the_upper_bound_is_reached() -> None:
    """One key aside, the others together, and the query along what divides them."""
    keys = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.6, 0.8, 0.0]], dtype=torch.float64)
    bounded = BoundedVotes.of(keys, torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.float64), 1, 5.0)
    query = unit(keys[:1] - keys[1:2])
    exact = affinity(query @ keys.T, 5.0).sum()
    torch.testing.assert_close(exact, (affinity(query @ bounded.means.T, 5.0) * bounded.upper).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", ["equal", "unequal"])
@pytest.mark.parametrize(
    ("spread", "alpha", "beta"), [(0.5, 1, 5.5), (1.5, 3, 5.5), (1.5, 30, 5.5), (5, 100, 2), (1, 0, 5.5), (1, 1, 1000)]
)
def test_predictions_are_those_of_all_logits(
    counts: str, spread: float, alpha: float, beta: float, dtype: torch.dtype
) -> None:
    keys, labels, queries, texts = (
        part.to(dtype) if part.is_floating_point() else part for part in cache(COUNTS[counts], spread)
    )
    classifier = TipAdapter(text=texts, classes=list(range(N)), logit_scale=20.0, alpha=alpha, beta=beta)
    classifier.fit(keys, labels.numpy())
    expected = classifier.logits(queries).argmax(dim=1)
    assert classifier.predict(queries).tolist() == expected.tolist()


def test_candidates_alone_are_computed_where_bounds_decide_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to a decision is taken: bounds alone, exact votes of candidates, all logits; settled in parts or not."""
    keys, labels, queries, texts = cache(COUNTS["equal"], 1.0)
    weights = vote_weights(labels, N, balanced=True, dtype=keys.dtype)
    bounded = BoundedVotes.of(keys, labels, weights, N, 5.5)
    logits = 20 * queries @ texts.T + 3 * votes(affinity(queries @ keys.T, 5.5), weights, labels, N)
    asked: list[int] = []

    def dense(rows: Tensor) -> Tensor:
        asked.extend(rows.tolist())
        return logits[rows].argmax(dim=1)

    monkeypatch.setattr("crossgraft.fewshot.features.CACHE_ELEMENTS", 0)
    monkeypatch.setattr("crossgraft.fewshot.features.EFFICIENT_ROWS", 32)
    found = []
    for pairs, many in ((2**20, 0.5), (10, 0.5), (2**20, 0.05), (2**20, 0.0)):
        monkeypatch.setattr(module, "_PAIRS", pairs)
        monkeypatch.setattr(module, "_MANY", many)
        asked.clear()
        best = bounded.best(queries, 3.0, lambda cut: 20 * queries[cut] @ texts.T, dense, 20.0)
        assert best.tolist() == logits.argmax(dim=1).tolist()
        found.append(len(asked))
        assert len(set(asked)) == len(asked)
    assert found[0] == found[1] < found[2] < found[3]


def test_equal_classes_are_decided_by_all_logits() -> None:
    """Two classes with the same text and the same photos: the first wins, as everywhere."""
    keys, labels, queries, texts = cache(COUNTS["equal"], 0.5)
    texts[1], keys[labels == 1] = texts[0], keys[labels == 0]
    classifier = TipAdapter(text=texts, classes=list(range(N))).fit(keys, labels.numpy())
    expected = classifier.logits(queries).argmax(dim=1)
    assert 0 in expected
    assert classifier.predict(queries).tolist() == expected.tolist()
