"""Calibration and the reject threshold: from the support alone, sound, and as said."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from few_shot_problems import Problem, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch.nn import functional

from crossgraft.errors import InputError
from crossgraft.fewshot import GDA, METHODS, LinearProbe, NearestMean, ProKeR, get_method, load_classifier
from crossgraft.fewshot.calibration import (
    CONFIDENCE,
    ONE_SHOT_SPREAD,
    Calibration,
    Cut,
    cut_by_coverage,
    fit_temperature,
)
from crossgraft.fewshot.confidence import reliability
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.persist import save_classifier

torch.set_num_threads(1)

MANY = problem((8,) * 40, d=20, f=30, noise=1.5, n_query=1200)
FEW = problem((3, 3, 3, 3), noise=0.8)


def texts(p: Problem) -> dict[str, object]:
    return {"text": p.text, "classes": p.classes}


def error(classifier: object, p: Problem) -> float:
    """Expected calibration error on the queries, in percent."""
    proba = classifier.predict_proba(p.Q)  # type: ignore[attr-defined]
    return 100 * reliability(classifier.predict(p.Q) == p.y_query, proba.max(axis=1)).error  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["linear-probe", "nearest-mean", "gda", "proker", "tip-adapter"])
def test_probabilities_become_better_and_predictions_stay(name: str) -> None:
    classifier = get_method(name)(logit_scale=16.0, **texts(MANY)).fit(MANY.X, MANY.y)
    labels, before = classifier.predict(MANY.Q).tolist(), error(classifier, MANY)
    assert classifier.calibrate() is classifier
    assert classifier.predict(MANY.Q).tolist() == labels
    assert error(classifier, MANY) < min(before, 6)


def test_the_spread_of_the_logits_at_the_full_number_of_samples_counts() -> None:
    """Logits that grow with the samples: a fold's are smaller, by half at two shots."""

    class Growing(NearestMean):
        def _fit(self, support: Support) -> int:
            self.logit_scale = 0.1 * len(support.labels)
            return super()._fit(support)

    p = problem((2,) * 40, d=20, f=30)
    growing, steady = (method(logit_scale=8.0).fit(p.X, p.y) for method in (Growing, NearestMean))
    np.testing.assert_allclose(growing.logits(p.Q), steady.logits(p.Q), rtol=1e-6)
    # Ten of the eighty samples are left out where the spread is measured.
    expected = steady.calibrate().calibration_.temperature * 80 / 70
    assert growing.calibrate().calibration_.temperature == pytest.approx(expected, rel=1e-3)


def best_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """By another optimiser."""

    def loss(t: float) -> float:
        return functional.cross_entropy(math.exp(t) * logits, labels).item()

    return math.exp(minimize_scalar(loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-6}).x)


def test_temperature_is_the_minimum_of_the_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 6, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((2.5 * logits).softmax(dim=1), 1, generator=generator)[:, 0]
    t = fit_temperature(logits, labels, torch.ones(6, dtype=torch.bool))
    assert t == pytest.approx(best_temperature(logits, labels), rel=0.01)  # Platt's targets still show at 4000
    assert t == pytest.approx(2.5, rel=0.1)


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(1e-3, 1e3), n=st.integers(1, 30), seed=st.integers(0, 99))
def test_temperature_undoes_any_scale_and_stays_finite(scale: float, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    seen = torch.tensor([True, True, True, False])
    labels = logits[:, :3].argmax(dim=1)  # every one right: plain cross-entropy would have no minimum
    t = fit_temperature(scale * logits, labels, seen)
    assert 0 < t <= 1e5
    if 2e-5 < t < 5e4 and 2e-5 < scale * t < 5e4:
        assert scale * t == pytest.approx(fit_temperature(logits, labels, seen), rel=1e-3)


def test_a_class_that_was_never_seen_does_not_spoil_the_temperature() -> None:
    """Its logit is -1e4 in methods without text."""
    p = problem((4, 4, 4, 4), noise=0.8)
    absent = {"text": np.vstack([p.text, p.text[:1]]), "classes": [*p.classes, "absent"]}
    with_absent, without = (
        LinearProbe(**given).fit(p.X, p.y).calibrate().calibration_.temperature for given in (absent, texts(p))
    )
    assert with_absent == pytest.approx(without, rel=1e-3)


def test_at_one_shot_logits_get_a_fixed_spread_and_there_is_no_threshold() -> None:
    p = problem((1,) * 30, d=20, f=40, noise=0.7, n_query=300)
    for method in (NearestMean, LinearProbe, ProKeR):
        classifier = method(**texts(p)).fit(p.X, p.y).calibrate()
        logits = classifier.calibration_.temperature * classifier.logits(p.Q)
        wrong = torch.ones_like(logits, dtype=torch.bool)
        wrong[torch.arange(len(logits)), [p.classes.index(label) for label in p.y_query]] = False
        spread = logits[wrong].view(len(logits), -1).var(dim=1).mean().sqrt().item()
        assert spread == pytest.approx(ONE_SHOT_SPREAD, rel=0.2)
        with pytest.raises(InputError, match="no reject threshold: there was one photo a class"):
            classifier.predict_or_reject(p.Q)


def test_zero_shot_has_learned_from_no_sample_so_that_each_one_counts() -> None:
    p = problem((1,) * 30, noise=1.0)
    classifier = get_method("zero-shot")(**texts(p)).fit(p.X, p.y).calibrate()
    assert classifier.calibration_.samples == 30
    logits = classifier.logits(p.X).double()
    rows = torch.tensor([p.classes.index(label) for label in p.y])
    t = fit_temperature(logits, rows, torch.ones(30, dtype=torch.bool))
    assert classifier.calibration_.temperature == pytest.approx(t)


@pytest.mark.parametrize("counts", [(1, 1), (2, 2), (1, 5), (1, 1, 1), (3, 1, 1, 1), (2, 9), (1, 2, 3, 30)])
@pytest.mark.parametrize("name", ["nearest-mean", "gda", "linear-probe", "proker", "tip-adapter"])
@pytest.mark.parametrize("with_text", [True, False])
def test_any_support_can_be_calibrated(counts: tuple[int, ...], name: str, with_text: bool) -> None:
    p = problem(counts, n_query=9)
    classifier = get_method(name)(**texts(p) if with_text else {}).fit(p.X, p.y).calibrate()
    assert 1e-5 < classifier.calibration_.temperature < 1e5
    np.testing.assert_allclose(classifier.predict_proba(p.Q).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_calibrates_and_keeps_what_it_has_learned(name: str, tmp_path: Path) -> None:
    short = {"epochs": 2} if "epochs" in get_method(name)().get_params() else {}
    classifier = get_method(name)(**texts(FEW), **short).fit(FEW.X, FEW.y)
    before = classifier.logits(FEW.Q)
    proba = classifier.calibrate().predict_proba(FEW.Q)
    assert torch.equal(classifier.logits(FEW.Q), before)
    found = classifier.calibration_
    assert found.samples > 0
    assert classifier.calibrate().calibration_ == found  # and so it is repeatable
    loaded = load_classifier(save_classifier(classifier, tmp_path / "a"))
    assert loaded.calibration_ == found
    assert np.array_equal(loaded.predict_proba(FEW.Q), proba)
    if hasattr(loaded, "explain"):
        assert [evidence.probability for evidence in loaded.explain(FEW.Q)] == pytest.approx(proba.max(axis=1))
    with pytest.raises(InputError, match="calibrate needs the support"):
        loaded.calibrate()


def test_a_calibration_does_not_outlive_what_it_was_made_for() -> None:
    classifier = GDA(**texts(FEW)).fit(FEW.X, FEW.y).calibrate()
    assert classifier.tune(FEW.Q, FEW.y_query).calibration_ is None
    assert classifier.calibrate().fit(FEW.X, FEW.y).calibration_ is None
    with pytest.raises(InputError, match="call calibrate after fit"):
        classifier.threshold(0.9)


def test_labels_above_the_threshold_are_as_accurate_as_asked() -> None:
    p = problem((20,) * 15, d=20, f=40, noise=2.5, n_query=3000, seed=1)
    classifier = NearestMean(**texts(p)).fit(p.X, p.y).calibrate()
    kept_before = 1.0
    assert np.mean(classifier.predict(p.Q) == p.y_query) < 0.8
    for accuracy in (0.7, 0.8, 0.88):
        labels, sure = classifier.predict_or_reject(p.Q, accuracy)
        assert labels.tolist() == classifier.predict(p.Q).tolist()
        assert 0.1 < sure.mean() <= kept_before
        assert np.mean(labels[sure] == p.y_query[sure]) >= accuracy
        kept_before = sure.mean()


def test_the_guarantee_holds_over_many_draws() -> None:
    """Calibrated answers, whose accuracy above any threshold is known: at most 10 % of thresholds may be too low."""
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(400):
        confidence = rng.uniform(0.3, 1, 200)
        found = Calibration(1.0, 200, cut_by_coverage(rng.uniform(size=200) < confidence, confidence))
        try:
            threshold = found.threshold(0.8)
        except InputError:
            continue
        broken += (threshold + 1) / 2 < 0.8  # the mean of what lies above
    assert broken <= 400 * (1 - CONFIDENCE) + 2 * math.sqrt(400 * 0.1 * 0.9)


def test_cuts_and_their_bound() -> None:
    cuts = cut_by_coverage(np.array([True] * 30 + [False] * 10), np.linspace(1, 0.2, 40))
    assert [cut.kept for cut in cuts] == list(range(8, 41, 2))
    assert (cuts[0].correct, cuts[-1].correct) == (8, 30)
    assert cuts[-1].confidence == pytest.approx(0.2)
    assert Cut(40, 40, 0.5).bound == pytest.approx(Cut(40, 40, 0.5).ceiling) == pytest.approx(0.1 ** (1 / 40))
    assert Cut(5, 0, 0.5).bound == 0
    # Scores that are the same cannot be told apart by a threshold.
    (everything,) = cut_by_coverage(np.array([True, False] * 5), np.full(10, 0.5))
    assert everything == (10, 5, 0.5)


def test_what_cannot_be_shown_is_said_with_what_can() -> None:
    hits = np.array([True] * 12)
    found = Calibration(1.0, 12, cut_by_coverage(hits, np.linspace(1, 0.5, 12)))
    assert found.attainable == pytest.approx(0.1 ** (1 / 12))
    assert found.threshold(0.82) == 0.5
    with pytest.raises(
        InputError, match=r"12 out-of-fold predictions cannot show .* 95.0%.* the most they show is 82.5%"
    ):
        found.threshold(0.95)
    with pytest.raises(InputError, match=r"between 0 and 1, such as 0\.95"):
        found.threshold(95)


@given(data=st.data(), n=st.integers(1, 120))
def test_attainable_is_the_border(data: st.DataObject, n: int) -> None:
    hits = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    found = Calibration(1.0, n, cut_by_coverage(hits, np.linspace(1, 0.1, n)))
    if 0 < found.attainable < 1:
        found.threshold(found.attainable)
        with pytest.raises(InputError):
            found.threshold(min(found.attainable + 1e-6, 1 - 1e-9))


DAMAGE = [
    7,
    {},
    {"temperature": 1.0, "samples": 3},
    {"temperature": "1", "samples": 0, "cuts": []},
    {"temperature": 0.0, "samples": 0, "cuts": []},
    {"temperature": math.inf, "samples": 0, "cuts": []},
    {"temperature": 1.0, "samples": -1, "cuts": []},
    {"temperature": 1.0, "samples": True, "cuts": []},
    {"temperature": 1.0, "samples": 3, "cuts": {}},
    {"temperature": 1.0, "samples": 3, "cuts": [[1, 1]]},
    {"temperature": 1.0, "samples": 3, "cuts": [[4, 1, 0.5]]},
    {"temperature": 1.0, "samples": 3, "cuts": [[1, 2, 0.5]]},
    {"temperature": 1.0, "samples": 3, "cuts": [[1, 1, 0.5], [2, 1, 0.7]]},
    {"temperature": 1.0, "samples": 3, "cuts": [[1, 1, math.nan]]},
]


@pytest.mark.parametrize("value", DAMAGE, ids=str)
def test_a_damaged_calibration_is_refused(value: object) -> None:
    with pytest.raises(InputError):
        Calibration.from_json(value)


def test_a_calibration_comes_back() -> None:
    found = LinearProbe().fit(MANY.X, MANY.y).calibrate().calibration_
    assert found.samples > 0
    assert Calibration.from_json(found.to_json()) == found
