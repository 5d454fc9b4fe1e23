"""Calibration and reject curves, against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossgraft.errors import InputError
from crossgraft.fewshot.confidence import COVERAGES, Reliability, accuracy_at_coverage, reliability

PREDICTIONS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60)


def test_bins_by_hand() -> None:
    bins = reliability([True, False, True, True], [0.1, 0.15, 0.55, 1.0], bins=10)
    assert bins.count.tolist() == [1, 1, 0, 0, 0, 1, 0, 0, 0, 1]  # 0.1 closes the first bin
    assert bins.accuracy.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert bins.error == pytest.approx((0.9 + 0.15 + 0.45 + 0) / 4)


@given(PREDICTIONS)
def test_the_error_is_the_weighted_gap_of_the_bins(pairs: list[tuple[bool, float]]) -> None:
    hits, confidence = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    bins = reliability(hits, confidence)
    assert bins.count.sum() == len(pairs)
    expected = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15) | ((b == 0) & (confidence == 0))
        if inside.any():
            expected += inside.mean() * abs(hits[inside].mean() - confidence[inside].mean())
    assert bins.error == pytest.approx(expected, abs=1e-9) or np.isclose(confidence * 15 % 1, [0, 1]).any()


@given(PREDICTIONS, PREDICTIONS)
def test_pooled_bins_are_those_of_all_predictions(a: list[tuple[bool, float]], b: list[tuple[bool, float]]) -> None:
    parts = [reliability(*zip(*pairs, strict=True)) for pairs in (a, b)]
    pooled, together = Reliability.pooled(parts), reliability(*zip(*(a + b), strict=True))
    for name in ("count", "confidence", "accuracy"):
        np.testing.assert_allclose(getattr(pooled, name), getattr(together, name), atol=1e-12)


def test_the_surest_are_kept() -> None:
    hits, confidence = [False, True, True, True], [0.2, 0.9, 0.8, 0.7]
    assert accuracy_at_coverage(hits, confidence, (1, 25, 50, 75, 100)) == [100, 100, 100, 100, 75]
    assert accuracy_at_coverage(hits[::-1], confidence[::-1], (100,)) == [75]


@given(PREDICTIONS, st.randoms())
def test_the_order_of_images_changes_nothing_and_all_is_the_accuracy(
    pairs: list[tuple[bool, float]], random: Any
) -> None:
    hits, confidence = zip(*pairs, strict=True)
    curve = accuracy_at_coverage(hits, confidence)
    assert len(curve) == len(COVERAGES)
    assert curve[-1] == pytest.approx(100 * np.mean(hits))
    random.shuffle(pairs)
    assert accuracy_at_coverage(*zip(*pairs, strict=True)) == pytest.approx(curve)


def test_equal_confidence_counts_its_mean() -> None:
    assert accuracy_at_coverage([True, False, True, False], [1.0] * 4) == pytest.approx([50] * len(COVERAGES))


@pytest.mark.parametrize(
    ("hits", "confidence"),
    [([], []), ([True], [0.5, 0.5]), ([True], [1.1]), ([True], [-0.1]), ([True], [float("nan")]), ([[True]], [[0.5]])],
)
def test_what_are_no_probabilities_is_refused(hits: Any, confidence: Any) -> None:
    for function in (reliability, accuracy_at_coverage):
        with pytest.raises(InputError, match="probabilities"):
            function(hits, confidence)  # type: ignore[operator]
