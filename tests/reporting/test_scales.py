"""Axes are round, labels keep their distance, bands are those of Student."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossgraft.reporting.run_folder import Score
from crossgraft.reporting.scales import Scale, compact, decades, half_band, spread, ticks


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_are_round_and_hold_the_values(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert found[0] <= low + 1e-6 * width
    assert found[-1] >= low + width - 1e-6 * width
    assert 2 <= len(found) <= 12
    step = found[1] - found[0]
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - round_one) for round_one in (1, 2, 5)) < 1e-3


def test_ticks_of_one_value() -> None:
    assert len(ticks(3, 3)) > 1


@pytest.mark.parametrize(
    ("low", "high", "powers"), [(1, 1, [1, 10]), (0.02, 30, [0.01, 0.1, 1, 10, 100]), (5, 9, [1, 10])]
)
def test_decades(low: float, high: float, powers: list[float]) -> None:
    assert decades(low, high) == pytest.approx(powers)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_labels_keep_their_distance_and_their_order(wanted: list[float]) -> None:
    placed = spread(wanted, 5, 0, 100)
    gap = min(5, 100 / max(len(wanted) - 1, 1))
    order = sorted(placed)
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(order))
    assert order[0] >= -1e-6
    assert order[-1] <= 100 + 1e-6
    for i, a in enumerate(wanted):
        assert all(placed[i] < placed[j] for j, b in enumerate(wanted) if a < b)


def test_labels_that_fit_stay_where_they_are() -> None:
    assert spread([10, 50, 30], 5, 0, 100) == [10, 50, 30]


def test_the_band_is_students_interval() -> None:
    # Three seeds: t(2, 97.5 %) = 4.303; std 1: 4.303 / sqrt(3).
    assert half_band(Score(50, 1.0, (49, 50, 51))) == pytest.approx(2.484, abs=1e-3)
    assert half_band(Score(50, 0.0, (50,))) is None


def test_scales() -> None:
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(1, 100, 0, 200, log=True)(10) == pytest.approx(100)
    assert Scale(5, 5, 0, 200)(5) == 100


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0041, "0.0041"), (0.25, "0.25"), (12.34, "12.3"), (450.6, "451"), (25_620, "25.6k"), (4.2e6, "4.2M")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert compact(value) == text
