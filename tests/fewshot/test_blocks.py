"""Queries in blocks: bounded, complete, and without a trace in what is predicted."""

from __future__ import annotations

import pytest
import torch
from few_shot_problems import problem

from crossgraft.fewshot import ProKeR, TipAdapter, ZeroShot
from crossgraft.fewshot.features import BLOCK_ELEMENTS, EFFICIENT_ROWS, blocks

torch.set_num_threads(1)

P = problem()


@pytest.mark.parametrize(("n", "width"), [(1, 1), (7, 3), (50_000, 16_000), (10**6, 1000), (3, 10**9), (5, 0)])
@pytest.mark.parametrize("in_cache", [False, True])
def test_blocks_cover_all_queries_once_and_stay_small(n: int, width: int, in_cache: bool) -> None:
    cuts = list(blocks(n, width, in_cache=in_cache))
    assert [i for cut in cuts[:2] for i in range(cut.start, cut.stop)] == list(range(cuts[:2][-1].stop))
    assert [cut.start for cut in cuts[1:]] == [cut.stop for cut in cuts[:-1]]
    assert cuts[-1].stop == n
    assert max(cut.stop - cut.start for cut in cuts) * width <= max(BLOCK_ELEMENTS, width)


def test_blocks_in_cache_are_small_but_efficient() -> None:
    assert next(blocks(50_000, 1000, in_cache=True)).stop == 1048
    assert next(blocks(50_000, 16_000, in_cache=True)).stop == EFFICIENT_ROWS


@pytest.mark.parametrize("kind", [ZeroShot, TipAdapter, ProKeR])
def test_what_is_predicted_does_not_depend_on_blocks(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = kind(text=P.text, classes=P.classes).fit(P.X, P.y)
    expected = classifier.classes_[classifier.logits(P.Q).argmax(dim=1)]
    monkeypatch.setattr("crossgraft.fewshot.features.BLOCK_ELEMENTS", 30)
    assert classifier.predict(P.Q).tolist() == expected.tolist()


def test_features_whose_sum_overflows_are_finite() -> None:
    Q = torch.full((2, P.X.shape[1]), 3e38)
    classifier = ZeroShot(text=P.text, classes=P.classes).fit(P.X.astype("float32"), P.y)
    assert torch.isfinite(classifier.logits(Q)).all()
