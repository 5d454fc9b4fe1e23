"""Scores of colours: hand-made cases, and SciPy's figures where it has them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from crossgraft.tasks.metrics import color_scores as scores


def test_the_interval_of_a_share_is_that_of_its_normal_approximation() -> None:
    right = np.arange(109) < 35
    found = scores.bootstrap(right.astype(float), seed=3)
    assert found.mean == 35 / 109
    half = 1.96 * np.sqrt(found.mean * (1 - found.mean) / 109)
    assert found.low == pytest.approx(found.mean - half, abs=0.01)
    assert found.high == pytest.approx(found.mean + half, abs=0.01)
    assert found == scores.bootstrap(right.astype(float), seed=3)
    fine = np.random.default_rng(0).normal(size=50)
    assert scores.bootstrap(fine, seed=3) != scores.bootstrap(fine, seed=4)


def test_an_interval_of_one_value_has_no_width() -> None:
    assert scores.bootstrap(np.full(5, 0.25)) == (0.25, 0.25, 0.25)
    assert scores.bootstrap(np.array([1.0])) == (1, 1, 1)


def test_many_objects_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=40)
    at_once = scores.bootstrap(values, resamples=999)
    monkeypatch.setattr(scores, "_AT_ONCE", 100)
    parts = scores.bootstrap(values, resamples=999)
    assert parts == at_once  # the same draws


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    control = rng.random((3, 200)) < 0.5
    model = control | (rng.random((3, 200)) < 0.1)  # right wherever the control is, and a little more
    found = scores.paired_difference(model, control)
    assert found.mean == pytest.approx(model.mean() - control.mean())
    assert found.low > 0
    own, other = (scores.bootstrap(one.mean(0)) for one in (model, control))
    assert own.low < other.high  # side by side they overlap
    assert scores.paired_difference(control, control) == (0, 0, 0)
    assert scores.paired_difference(model[0], control).mean == pytest.approx(model[0].mean() - control.mean())
    with pytest.raises(ValueError, match="200 objects and 199 objects"):
        scores.paired_difference(model, control[:, 1:])


def test_a_prompts_favourite_is_taken_off() -> None:
    knows = np.eye(3)[None] * 0.5  # three objects, each of its own colour
    biased = knows + np.array([4.0, 0, 0])
    assert biased.argmax(2).tolist() == [[0, 0, 0]]
    assert scores.without_bias(biased).argmax(2).tolist() == [[0, 1, 2]]


def test_confusion_recall_and_majority() -> None:
    truths = np.array([0, 0, 2, 2])
    answers = np.array([[0, 1, 2, 2], [0, 0, 2, 1]])
    counts = scores.confusion(answers, truths, 3)
    assert counts.tolist() == [[3, 1, 0], [0, 0, 0], [0, 1, 3]]
    assert scores.recalls(counts) == [0.75, None, 0.75]
    assert scores.majority(truths) == (0, 0.5)
    assert scores.majority(np.array([1, 2, 2])) == (2, pytest.approx(2 / 3))


def test_agreement_is_scipys() -> None:
    rng = np.random.default_rng(0)
    logs, people = rng.normal(size=(2, 6, 11)), rng.multinomial(8, np.full(11, 1 / 11), size=6) / 8
    people[5] = np.eye(11)[3]
    logs[0, 0, :4] = 1.0  # equals
    found = scores.agreement(logs, people)
    for prompt in range(2):
        for place in range(6):
            own = np.exp(logs[prompt, place]) / np.exp(logs[prompt, place]).sum()
            at = prompt, place
            assert found["jensen_shannon"][at] == pytest.approx(jensenshannon(own, people[place]) ** 2)
            assert found["spearman"][at] == pytest.approx(stats.spearmanr(own, people[place]).statistic)
            assert found["kendall"][at] == pytest.approx(stats.kendalltau(own, people[place]).statistic)


def test_agreement_at_its_ends() -> None:
    one, other, flat = np.eye(11)[0], np.eye(11)[1], np.full(11, 1 / 11)
    assert scores.jensen_shannon(one, one) == 0
    assert scores.jensen_shannon(one, other) == pytest.approx(np.log(2))
    assert scores.spearman(flat, one) == scores.kendall(flat, one) == 0  # no order to agree with
    falling = np.arange(11.0)
    assert scores.spearman(falling, -falling) == scores.kendall(falling, -falling) == pytest.approx(-1)
