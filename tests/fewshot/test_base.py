"""What all few-shot classifiers promise: accepted input, refused input, tuning, properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import normal, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from crossgraft.errors import InputError
from crossgraft.fewshot import METHODS, FewShotClassifier, ZeroShot, get_method
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.threads import SMALL

torch.set_num_threads(1)

NAMES = list(METHODS)
P = problem()


def make(name: str, **params: Any) -> FewShotClassifier:
    """A classifier; the trained ones take few, large steps so that training shows and stays quick."""
    known = get_method(name)().get_params()
    quick = {"epochs": 4, "lr": 0.01} if "lr" in known else {}
    return get_method(name)(**{"logit_scale": 10.0, **params, **quick})


@pytest.mark.parametrize("name", NAMES)
def test_learns_an_easy_problem(name: str) -> None:
    easy = problem((4, 4, 4), noise=0.2)
    classifier = make(name, text=easy.text, classes=easy.classes).fit(easy.X, easy.y)
    assert classifier.score(easy.Q, easy.y_query) > 0.9
    assert classifier.classes_.tolist() == easy.classes
    assert classifier.n_features_in_ == easy.X.shape[1]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(
    counts=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    key=st.sampled_from([0, 4, 9]),
    with_text=st.booleans(),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_any_counts_keys_and_float_types(
    name: str, counts: list[int], key: int, with_text: bool, dtype: torch.dtype, seed: int
) -> None:
    p = problem(tuple(counts), f=key, seed=seed)
    text = {"text": torch.tensor(p.text).to(dtype), "classes": p.classes} if with_text else {}
    classifier = make(name, **text).fit(torch.tensor(p.X).to(dtype), p.y)
    logits = classifier.logits(torch.tensor(p.Q).to(dtype))
    assert logits.shape == (len(p.Q), len(counts))
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(logits).all()
    np.testing.assert_allclose(classifier.predict_proba(p.Q).sum(axis=1), 1, atol=1e-5)
    assert set(classifier.predict(p.Q)) <= set(p.y)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 9))
def test_order_of_classes_only_reorders_the_logits(name: str, order: list[int], seed: int) -> None:
    p = problem((3, 1, 2, 4), seed=seed)
    first = make(name, text=p.text, classes=p.classes).fit(p.X, p.y).logits(p.Q)
    turned = make(name, text=p.text[order], classes=[p.classes[i] for i in order]).fit(p.X, p.y).logits(p.Q)
    # The logistic regression stops at a tolerance; everything else is exact.
    torch.testing.assert_close(turned, first[:, order], rtol=0, atol=0.02 if name == "linear-probe" else 1e-9)


@pytest.mark.parametrize("name", ["zero-shot", "nearest-mean"])
def test_duplicated_samples_change_nothing(name: str) -> None:
    first = make(name).fit(P.X, P.y).logits(P.Q)
    twice = make(name).fit(np.concatenate([P.X, P.X]), np.concatenate([P.y, P.y])).logits(P.Q)
    torch.testing.assert_close(twice, first, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_scale_of_the_features_does_not_matter(name: str) -> None:
    classifier = make(name, text=P.text, classes=P.classes).fit(P.X, P.y)
    scaled = np.concatenate([P.Q[:, : P.d] * 1e-30, P.Q[:, P.d :] * 1e30], axis=1)
    torch.testing.assert_close(classifier.logits(scaled), classifier.logits(P.Q), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_class_without_a_sample(name: str) -> None:
    p = problem((3, 3, 3, 3), noise=0.1)
    absent = p.classes[2]
    kept = p.y != absent
    # GDA's two parts lie on scales of their own, and what an unseen class has is the text's.
    weight = {"alpha": 0.01} if name == "gda" else {}
    classifier = make(name, text=p.text, classes=p.classes, **weight).fit(p.X[kept], p.y[kept])
    assert torch.isfinite(classifier.logits(p.Q)).all()
    found = (classifier.predict(p.Q)[p.y_query == absent] == absent).all()
    # Text alone names the class; the two methods that read no text give it no probability.
    if name in ("linear-probe", "nearest-mean"):
        assert (classifier.predict_proba(p.Q)[:, 2] == 0).all()
    else:
        assert found


@pytest.mark.parametrize("name", NAMES)
def test_blocks_of_queries_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = make(name, text=P.text, classes=P.classes).fit(P.X, P.y)
    whole = classifier.logits(P.Q)
    monkeypatch.setattr("crossgraft.fewshot.features.BLOCK_ELEMENTS", 30)
    torch.testing.assert_close(classifier.logits(P.Q), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_tune_finds_the_best_of_its_grid(name: str) -> None:
    p = problem((2, 2, 2, 2, 2), noise=1.2, n_query=100, seed=3)
    classifier = make(name, text=p.text, classes=p.classes).fit(p.X, p.y)
    before, trained = classifier.score(p.Q, p.y_query), classifier.n_parameters_
    assert classifier.tune(p.Q, p.y_query) is classifier
    assert classifier.n_parameters_ == trained
    assert classifier.score(p.Q, p.y_query) >= before or not classifier.grid
    chosen = {key: getattr(classifier, key) for key in classifier.grid}
    assert all(value in classifier.grid[key] or isinstance(value, str) for key, value in chosen.items())
    # The tuned state is the one that a fit with those settings gives (keys trained under other settings stay).
    if classifier.grid and name not in ("tip-adapter-f", "xmadapter-paper"):
        again = clone(classifier).fit(p.X, p.y)
        torch.testing.assert_close(again.logits(p.Q), classifier.logits(p.Q), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["tip-adapter", "gda", "proker", "xmadapter-paper"])
def test_tune_scores_what_it_then_predicts(name: str) -> None:
    """Every candidate's logits are those of a classifier that holds its settings."""
    params = {"ratio": 0.5} if name == "xmadapter-paper" else {}
    classifier = make(name, text=P.text, classes=P.classes, **params).fit(P.X, P.y)
    embedding, key = classifier._queries(P.Q)
    for group in list(classifier._candidates())[::7]:
        for settings_, logits in list(zip(group.params, group.score(embedding, key), strict=True))[::37]:
            classifier.set_params(**settings_)
            for attribute, value in group.state.items():
                setattr(classifier, attribute, value)
            torch.testing.assert_close(classifier.logits(P.Q), logits, rtol=0, atol=1e-9)


def test_tune_breaks_ties_by_cross_entropy() -> None:
    """All settings of GDA are right on an easy problem; the boldest of them is also the surest."""
    easy = problem((4, 4, 4), noise=0.05)
    gda = make("gda", text=easy.text, classes=easy.classes, alpha=0.02).fit(easy.X, easy.y)
    losses = {}
    for alpha in gda.grid["alpha"]:
        gda.set_params(alpha=alpha)
        assert gda.score(easy.Q, easy.y_query) == 1.0
        losses[alpha] = -gda.logits(easy.Q).log_softmax(dim=1).max(dim=1).values.sum().item()
    least = min(losses.values())
    assert least < max(losses.values())
    # Of equal settings the first in the grid's order is kept.
    assert gda.tune(easy.Q, easy.y_query).get_params()["alpha"] == next(a for a in losses if losses[a] == least)


class Sealed(list):
    __crossgraft_sealed__ = True


@pytest.mark.parametrize("name", NAMES)
def test_test_labels_teach_nothing(name: str) -> None:
    classifier = make(name).fit(P.X, P.y)
    for learn in (classifier.fit, classifier.tune):
        with pytest.raises(InputError, match="test labels cannot be used for fitting"):
            learn(P.Q, Sealed(P.y_query))


BAD = {
    "NaN": (lambda: (np.where(np.arange(len(P.X))[:, None] == 3, np.nan, P.X), P.y), r"NaN.*\(3\)"),
    "NaN tensor": (lambda: (torch.full((4, 5), torch.inf), list("abab")), "infinity"),
    "one class": (lambda: (P.X, ["a"] * len(P.X)), "one class"),
    "no rows": (lambda: (P.X[:0], P.y[:0]), "0 sample"),
    "no rows, tensor": (lambda: (torch.zeros(0, 3), []), r"\(0, 3\)"),
    "flat": (lambda: (P.X[0], P.y), "2D"),
    "lengths": (lambda: (P.X, P.y[:-1]), "inconsistent"),
    "lengths, tensor": (lambda: (torch.tensor(P.X), P.y[:-1]), "inconsistent"),
    "regression": (lambda: (P.X, np.linspace(0, 1, len(P.X))), "Unknown label type"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case: str) -> None:
    make_input, message = BAD[case]
    with pytest.raises(InputError, match=message):
        make("tip-adapter").fit(*make_input())


def test_bad_texts_and_classes_are_refused() -> None:
    for params, message in [
        ({"text": P.text, "classes": P.classes[:3]}, "4 rows but there are 3 classes"),
        ({"text": P.text[:3]}, "pass classes="),
        ({"text": P.text, "classes": [*P.classes[:3], "other"]}, "outside classes: class w"),
        ({"text": P.text, "classes": ["class z"] * 4}, "distinct"),
        ({"classes": [*P.classes, "other"]}, "no sample of class other"),
        ({"text": P.text[0]}, r"shape \(6,\)"),
        ({"text": P.text * np.nan, "classes": P.classes}, "text contains NaN"),
        ({"text": np.ones((4, 99)), "classes": P.classes}, "fewer than the 99 of text"),
    ]:
        with pytest.raises(InputError, match=message):
            make("tip-adapter", **params).fit(P.X, P.y)


def test_bad_hyperparameters_are_refused() -> None:
    for name, params, message in [
        ("tip-adapter", {"alpha": "much"}, "alpha='much'"),
        ("tip-adapter", {"beta": float("nan")}, "beta='nan'"),
        ("proker", {"lam": -5.0}, "lam=-5.0; expected more than 0"),
        ("linear-probe", {"C": 0}, "C=0; expected more than 0"),
        ("xmadapter", {"eta": -1}, "eta=-1; expected at least 0"),
        ("xmadapter", {"shrinkage": 0}, "shrinkage=0; expected 'learned' or a number above 0"),
        ("xmadapter", {"ratio": "half"}, "ratio='half'"),
        ("xmadapter", {"ratio": True}, "ratio=True"),
        ("xmadapter-paper", {"reduction": 0}, "reduction=0; expected at least 1"),
        ("xmadapter-paper", {"mask": "no"}, "mask='no'; expected true or false"),
        ("xmadapter-paper", {"ratio": "half"}, "ratio='half'"),
        ("xmadapter", {"ratio": 1.5}, "ratio=1.5"),
        ("xmadapter-paper", {"reduction": 2.5}, "reduction='2.5'"),
    ]:
        with pytest.raises(InputError, match=message):
            make(name, text=P.text, classes=P.classes, **params).fit(P.X, P.y)
    with pytest.raises(InputError, match="batch_size=0"):
        get_method("tip-adapter-f")(batch_size=0).fit(P.X, P.y)


@pytest.mark.parametrize("name", NAMES)
def test_queries_of_another_width_and_unknown_validation_labels(name: str) -> None:
    classifier = make(name)
    with pytest.raises(NotFittedError):
        classifier.logits(P.Q)
    classifier.fit(P.X, P.y)
    with pytest.raises(InputError, match="features"):
        classifier.predict(P.Q[:, 1:])
    with pytest.raises(InputError, match="features"):
        classifier.predict(torch.tensor(P.Q[:, 1:]))
    with pytest.raises(InputError, match="outside classes: novel"):
        classifier.tune(P.Q, ["novel"] * len(P.Q))


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_model(name: str) -> None:
    classifier = make(name, text=P.text, classes=P.classes)
    assert torch.equal(classifier.fit(P.X, P.y).logits(P.Q), clone(classifier).fit(P.X, P.y).logits(P.Q))


def test_single_query_and_integer_labels() -> None:
    rows = np.unique(P.y, return_inverse=True)[1]
    classifier = make("proker").fit(P.X, rows)
    assert classifier.predict(P.Q[:1]).dtype == rows.dtype
    assert classifier.decision_function(P.Q[:1]).shape == (1, 4)


@pytest.mark.parametrize("columns", [8, SMALL])
def test_small_problems_are_computed_in_one_thread(columns: int) -> None:
    seen = []

    class Spy(ZeroShot):
        def _fit(self, support: Support) -> int:
            seen.append(torch.get_num_threads())
            return super()._fit(support)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        X = np.random.default_rng(0).normal(size=(4, columns)).astype(np.float32)
        Spy().fit(X, [0, 0, 1, 1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1 if columns == 8 else 2]


def test_several_texts_a_class_count_by_their_unit_mean_and_rows_of_zeros_do_not() -> None:
    data = problem()
    rng = np.random.default_rng(1)
    texts = rng.normal(size=(len(data.classes), 3, data.d))
    texts[1, 2] = 0  # a class with two texts
    mean = np.stack([normal(normal(each[np.any(each, axis=1)]).mean(0, keepdims=True))[0] for each in texts])
    several = ZeroShot(text=texts, classes=data.classes).fit(data.X, data.y)
    one = ZeroShot(text=mean, classes=data.classes).fit(data.X, data.y)
    np.testing.assert_allclose(several.text_, mean, atol=1e-12)
    np.testing.assert_allclose(several.decision_function(data.Q), one.decision_function(data.Q), atol=1e-9)
