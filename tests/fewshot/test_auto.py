"""auto: a linear head where held-out photos leave no doubt, and XMAdapter otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import Problem, normal, problem

from crossgraft.errors import InputError
from crossgraft.fewshot import XMAdapter, get_method, holdout, load_classifier, save_classifier
from crossgraft.fewshot.auto import CHALLENGERS, Auto
from crossgraft.fewshot.linear_form import linear_form

torch.set_num_threads(1)


def misled(shots: int = 8, seed: int = 0) -> Problem:
    """Six classes that a linear head tells apart by their photos; the texts are of no help."""
    p = problem((shots,) * 6, noise=0.7, d=6, f=64, n_query=240, seed=seed)
    return Problem(p.X, p.y, p.Q, p.y_query, np.random.default_rng(9).normal(size=p.text.shape), p.classes)


LINEAR = misled()
BLIND: dict[str, Any] = {"beta_i": 1e4}  # so sharp that the image cache knows the very photos it holds, and no other


def make(p: Problem, **params: Any) -> Auto:
    return Auto(**{"text": p.text, "classes": p.classes, **params}).fit(p.X, p.y)


@pytest.fixture(scope="module")
def linear() -> Auto:
    return make(LINEAR, **BLIND)


def accuracy(classifier: Any, p: Problem) -> float:
    return float((classifier.predict(p.Q) == p.y_query).mean())


def joined(p: Problem, X: np.ndarray) -> np.ndarray:
    return np.hstack([normal(X[:, : p.d]), normal(X[:, p.d :])])


def test_a_linear_head_is_taken_where_it_must_win(linear: Auto) -> None:
    assert linear.weight_.shape == (6, 70)
    own = XMAdapter(text=LINEAR.text, classes=LINEAR.classes, **BLIND).fit(LINEAR.X, LINEAR.y)
    assert accuracy(linear, LINEAR) > accuracy(own, LINEAR) + 0.3
    logits = joined(LINEAR, LINEAR.Q) @ linear.weight_.numpy().T + linear.bias_.numpy()
    np.testing.assert_allclose(linear.logits(LINEAR.Q), logits, atol=1e-9)
    # It is one of the challengers, fitted to all photos, times one temperature.
    same = []
    for name in CHALLENGERS:
        form = linear_form(get_method(name)(text=LINEAR.text, classes=LINEAR.classes).fit(LINEAR.X, LINEAR.y))
        assert form is not None
        t = (linear.weight_ * form[0]).sum() / form[0].square().sum()
        same.append(t > 0 and torch.allclose(linear.weight_, t * form[0]) and torch.allclose(linear.bias_, t * form[1]))
    assert sum(same) == 1


@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (4, 4, 4, 4), (1, 5, 2, 3), (3, 0, 3, 2)])
@pytest.mark.parametrize("text", [True, False])
def test_otherwise_it_is_xmadapter(counts: tuple[int, ...], text: bool) -> None:
    p = problem(counts, noise=0.6)
    if not text and 0 in counts:
        return
    params: dict[str, Any] = {"text": p.text, "classes": p.classes} if text else {}
    auto, own = Auto(**params).fit(p.X, p.y), XMAdapter(**params).fit(p.X, p.y)
    assert auto.weight_.shape == (0, 16)
    assert auto.bias_.shape == (0,)
    assert torch.equal(auto.logits(p.Q), own.logits(p.Q))
    assert auto.explain(p.Q) == own.explain(p.Q)
    assert auto.n_parameters_ == 0


@pytest.mark.parametrize("blind", [True, False])
def test_of_many_classes_a_part_decides_for_all(blind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdout, "CLASSES", 4)
    auto = make(LINEAR, **(BLIND if blind else {}))
    assert (len(auto.weight_) == 6) == blind
    assert auto.logits(LINEAR.Q).shape == (240, 6)
    assert accuracy(auto, LINEAR) > 0.7
    assert set(auto.predict(LINEAR.Q)) == set(LINEAR.classes)


def test_at_one_shot_nothing_can_be_held_out() -> None:
    p = misled(shots=1)
    own = XMAdapter(text=p.text, classes=p.classes, **BLIND).fit(p.X, p.y)
    assert torch.equal(make(p, **BLIND).logits(p.Q), own.logits(p.Q))


def test_a_challenger_has_to_win_by_more_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossgraft.fewshot.auto.SURE", 100.0)
    assert len(make(LINEAR, **BLIND).weight_) == 0


def test_without_texts_and_with_an_embedding_that_is_its_own_key() -> None:
    keys = LINEAR.X[:, LINEAR.d :]
    auto = Auto(**BLIND).fit(keys, LINEAR.y)
    assert auto.weight_.shape == (6, 64)
    logits = normal(LINEAR.Q[:, LINEAR.d :]) @ auto.weight_.numpy().T + auto.bias_.numpy()
    np.testing.assert_allclose(auto.logits(LINEAR.Q[:, LINEAR.d :]), logits, atol=1e-9)
    for one in auto.explain(LINEAR.Q[:3, LINEAR.d :]):
        assert one.image_share == pytest.approx(1)


def test_its_probabilities_are_no_surer_than_it_is_right(linear: Auto) -> None:
    probabilities = linear.predict_proba(LINEAR.Q)
    assert abs(probabilities.max(axis=1).mean() - accuracy(linear, LINEAR)) < 0.2


def test_saved_and_loaded_it_is_the_same(linear: Auto, tmp_path: Path) -> None:
    p = problem((3, 3, 3))
    for name, fitted, queries in (("linear", linear, LINEAR.Q), ("own", make(p), p.Q)):
        loaded = load_classifier(save_classifier(fitted, tmp_path / name))
        assert isinstance(loaded, Auto)
        assert torch.equal(loaded.logits(queries), fitted.logits(queries))
        assert loaded.explain(queries[:4]) == fitted.explain(queries[:4])


def test_a_linear_heads_evidence(linear: Auto) -> None:
    evidence = linear.explain(LINEAR.Q, k=99)
    weight, bias = linear.weight_.numpy(), linear.bias_.numpy()
    image = normal(LINEAR.Q[:, LINEAR.d :]) @ weight[:, LINEAR.d :].T + bias
    text = normal(LINEAR.Q[:, : LINEAR.d]) @ weight[:, : LINEAR.d].T
    for i, one in enumerate(evidence):
        row = (image + text)[i].argmax()
        assert one.label == LINEAR.classes[row]
        leads = [max(0.0, float(part[i, row] - part[i].mean())) for part in (text, image)]
        assert one.image_share == pytest.approx(leads[1] / sum(leads))
        assert one.text_share + one.image_share == pytest.approx(1)
        assert all(vote.contribution == 0 for vote in one.supports)
        weights = [vote.weight for vote in one.supports]
        assert weights == sorted(weights, reverse=True)
        assert len(weights) == len(LINEAR.y)


def test_a_linear_heads_classes_cannot_be_edited(linear: Auto, tmp_path: Path) -> None:
    before = linear.logits(LINEAR.Q)
    for classifier in (linear, load_classifier(save_classifier(linear, tmp_path / "linear"))):
        with pytest.raises(InputError, match=r"linear head.*fit again"):
            classifier.add_class(LINEAR.X[:2], "new", LINEAR.text[0])
        with pytest.raises(InputError, match=r"linear head.*fit again"):
            classifier.remove_class(LINEAR.classes[0])
        assert torch.equal(classifier.logits(LINEAR.Q), before)


def test_as_xmadapter_its_classes_can_be_edited() -> None:
    p = problem((3, 3, 3), noise=0.5)
    auto, own = (kind(text=p.text, classes=p.classes).fit(p.X, p.y) for kind in (Auto, XMAdapter))
    for classifier in (auto, own):
        classifier.add_class(p.Q[:2], "new", p.text[0]).remove_class(p.classes[1])
    assert torch.equal(auto.logits(p.Q), own.logits(p.Q))


def test_tune_chooses_among_all(linear: Auto) -> None:
    """On a validation set, what is more often right there: whichever it had been before."""
    p = problem((2, 2, 2, 2), noise=0.6, n_query=40)
    auto = make(p, aligned=0.05, shrinkage=5.0)
    scores = [accuracy(auto, p)]
    for name in CHALLENGERS:
        scores.append(accuracy(get_method(name)(text=p.text, classes=p.classes).fit(p.X, p.y), p))
    auto.tune(p.Q, p.y_query)
    assert accuracy(auto, p) >= max(scores)

    wins = make(LINEAR, aligned=0.05, shrinkage=5.0, **BLIND)
    wins.tune(LINEAR.Q, LINEAR.y_query)
    assert len(wins.weight_)
    assert accuracy(wins, LINEAR) >= accuracy(linear, LINEAR)


def test_it_calibrates(linear: Auto) -> None:
    auto = make(LINEAR, aligned=0.05, shrinkage=5.0, **BLIND).calibrate()
    assert auto.predict(LINEAR.Q).tolist() == linear.predict(LINEAR.Q).tolist()
    assert auto.calibration_ is not None
    assert auto.calibration_.temperature > 0
