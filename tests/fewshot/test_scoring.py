"""What a fitted classifier is asked, and which images are explained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from few_shot_problems import problem

from crossgraft.fewshot import get_method, scoring
from crossgraft.fewshot.sealed import SealedLabels

P = problem(n_query=30, noise=1.0)


def test_answers_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = get_method("proker")(text=P.text, classes=P.classes).fit(P.X, P.y)
    whole, seconds = scoring.answers(classifier, torch.from_numpy(P.Q))
    assert seconds > 0
    monkeypatch.setattr(scoring, "_ROWS", 7)
    cut, _ = scoring.answers(classifier, torch.from_numpy(P.Q))
    assert whole.labels.tolist() == cut.labels.tolist() == classifier.predict(P.Q).tolist()
    assert whole.top.tolist() == cut.top.tolist()
    np.testing.assert_allclose(whole.probability, cut.probability)
    np.testing.assert_allclose(whole.top_probability[:, 0], whole.probability)
    assert whole.top.shape == (30, 4)  # four classes


def test_a_score_holds_accuracy_and_calibration() -> None:
    classifier = get_method("gda")(text=P.text, classes=P.classes).fit(P.X, P.y)
    given, _ = scoring.answers(classifier, torch.from_numpy(P.Q))
    one = scoring.score(given, SealedLabels(P.y_query))
    hits = given.labels == P.y_query
    assert [one.metrics["accuracy"], one.coverage[-1]] == pytest.approx([100 * hits.mean()] * 2)
    assert one.metrics["calibration_error"] == pytest.approx(100 * one.reliability.error)


def test_the_surest_misses_and_an_even_spread_of_hits_are_explained() -> None:
    confidence = np.linspace(0, 1, 100)
    hits = np.arange(100) % 2 == 0
    chosen = scoring.sample(hits, confidence, misses=3, right=3)
    assert chosen[:3] == [99, 97, 95]
    assert chosen[3] == 98
    assert chosen[-1] == 0
    assert len(chosen) == 6
    assert scoring.sample(np.array([True]), np.array([0.5])) == [0]
    assert scoring.sample(np.array([False]), np.array([0.5])) == [0]
