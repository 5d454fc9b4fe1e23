"""One class more or less: equal to a fit of all classes where a method says so, and refused elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import Problem, problem
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from crossgraft.errors import InputError
from crossgraft.fewshot import (
    GDA,
    METHODS,
    FewShotClassifier,
    LinearProbe,
    NearestMean,
    ProKeR,
    TipAdapter,
    TipAdapterF,
    ZeroShot,
    get_method,
    load_classifier,
)
from crossgraft.fewshot.persist import save_classifier

torch.set_num_threads(1)

P = problem((4, 1, 3, 2, 5), noise=0.8)
NEW = P.classes[-1]
EXACT: list[tuple[type[FewShotClassifier], dict[str, Any]]] = [
    (ZeroShot, {}),
    (NearestMean, {}),
    (TipAdapter, {}),
    (TipAdapter, {"balanced": False}),
    (ProKeR, {}),
    (ProKeR, {"balanced": False}),
]
Load = Callable[[FewShotClassifier], FewShotClassifier]


@pytest.fixture(params=["fitted", "loaded"])
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """The classifier as it was fitted, or as it comes back from its files, without its support."""
    if request.param == "fitted":
        return lambda classifier: classifier
    return lambda classifier: load_classifier(save_classifier(classifier, tmp_path / "given"))


def fit(method: type[FewShotClassifier], p: Problem, rows: np.ndarray, classes: list[str], **params: Any) -> Any:
    """Fit to the samples in these rows; texts only if `params` has them."""
    if "text" in params:
        params = params | {"text": params["text"][[P.classes.index(name) for name in classes]], "classes": classes}
    return method(**params).fit(p.X[rows], p.y[rows])


@pytest.mark.parametrize(("method", "params"), EXACT)
@pytest.mark.parametrize("text", [None, P.text, np.stack([P.text, P.text[::-1]], axis=1)], ids=["none", "one", "two"])
def test_equal_to_a_fit_of_all_classes(
    method: type[FewShotClassifier], params: dict[str, Any], text: Any, given: Load, tmp_path: Path
) -> None:
    params = params | ({} if text is None else {"text": text})
    old, everything = P.y != NEW, np.ones(len(P.y), dtype=bool)
    whole = fit(method, P, everything, P.classes, **params)
    part = fit(method, P, old, P.classes[:-1], **params)
    columns = [whole.classes_.tolist().index(name) for name in part.classes_.tolist()]

    grown = given(part).add_class(P.X[~old], NEW, None if text is None else text[-1])
    order = [whole.classes_.tolist().index(name) for name in grown.classes_.tolist()]
    assert order == [*columns, whole.classes_.tolist().index(NEW)]
    torch.testing.assert_close(grown.logits(P.Q), whole.logits(P.Q)[:, order], rtol=0, atol=1e-5)
    assert grown.predict(P.Q).tolist() == whole.predict(P.Q).tolist()
    assert grown.n_parameters_ == whole.n_parameters_

    again = load_classifier(save_classifier(grown, tmp_path / "grown"))
    assert torch.equal(again.logits(P.Q), grown.logits(P.Q))

    before = fit(method, P, old, P.classes[:-1], **params)
    torch.testing.assert_close(again.remove_class(NEW).logits(P.Q), before.logits(P.Q), rtol=0, atol=1e-5)
    shrunk = given(whole).remove_class(NEW)
    assert shrunk.classes_.tolist() == before.classes_.tolist()
    torch.testing.assert_close(shrunk.logits(P.Q), before.logits(P.Q), rtol=0, atol=1e-5)


def says_to_fit_again(call: Callable[[], object]) -> bool:
    try:
        call()
    except InputError as error:
        if "fit again" not in str(error):
            raise
        return True
    return False


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_does_it_or_says_to_fit_again(name: str, given: Load, tmp_path: Path) -> None:
    """A class in the middle goes; heads leave what they say of the others, and everything can be saved and loaded."""
    short = {"epochs": 2} if "epochs" in get_method(name)().get_params() else {}
    fitted = get_method(name)(text=P.text, classes=P.classes, **short).fit(P.X, P.y).calibrate()
    logits, temperature = fitted.logits(P.Q), fitted.calibration_.temperature
    classifier = given(fitted)
    if says_to_fit_again(lambda: classifier.remove_class(P.classes[1])):
        assert torch.equal(classifier.logits(P.Q), logits)
        assert len(classifier.classes_) == 5
    else:
        kept = [0, 2, 3, 4]
        assert classifier.classes_.tolist() == [P.classes[i] for i in kept]
        if not any("M" in symbols for symbols in classifier.state.values()):
            torch.testing.assert_close(classifier.logits(P.Q), logits[:, kept])
        assert classifier.calibration_.temperature == temperature
        with pytest.raises(InputError, match="no reject threshold"):
            classifier.threshold(0.5)
        loaded = load_classifier(save_classifier(classifier, tmp_path / "shrunk"))
        assert torch.equal(loaded.logits(P.Q), classifier.logits(P.Q))
        clone(classifier).fit(P.X[P.y != P.classes[1]], P.y[P.y != P.classes[1]])
    if not says_to_fit_again(lambda: classifier.add_class(P.X[:2], "new", P.text[0])):
        assert classifier.classes_[-1] == "new"
        loaded = load_classifier(save_classifier(classifier, tmp_path / "grown"))
        assert torch.equal(loaded.logits(P.Q), classifier.logits(P.Q))


def test_heads_drop_the_row_of_the_class_and_its_parameters() -> None:
    for method in (LinearProbe, GDA):
        classifier = method(text=P.text, classes=P.classes).fit(P.X, P.y)
        logits, f = classifier.logits(P.Q), P.X.shape[1] - P.d
        classifier.remove_class(P.classes[0])
        torch.testing.assert_close(classifier.logits(P.Q), logits[:, 1:])
        assert classifier.n_parameters_ == (4 * (f + 1) if method is LinearProbe else 0)
        with pytest.raises(InputError, match=f"{classifier.method} cannot take one more class on its own; fit again"):
            classifier.add_class(P.X[:1], "new", P.text[0])


def test_trained_keys_stay_and_new_ones_are_as_given() -> None:
    old = P.y != NEW
    classifier = TipAdapterF(text=P.text[:-1], classes=P.classes[:-1], epochs=3).fit(P.X[old], P.y[old])
    trained = classifier.keys_.clone()
    classifier.add_class(P.X[~old], NEW, P.text[-1])
    assert torch.equal(classifier.keys_[: len(trained)], trained)
    torch.testing.assert_close(classifier.keys_[len(trained) :], TipAdapter().fit(P.X[:, P.d :], P.y).keys_[~old])
    assert classifier.n_parameters_ == classifier.keys_.numel()


def test_a_fitted_classifier_can_be_tuned_and_calibrated_afterwards() -> None:
    old = P.y != NEW
    grown = TipAdapter(text=P.text[:-1], classes=P.classes[:-1]).fit(P.X[old], P.y[old])
    grown.add_class(P.X[~old], NEW, np.stack([P.text[-1], P.text[-1]]))
    whole = TipAdapter(text=P.text, classes=P.classes).fit(np.vstack([P.X[old], P.X[~old]]), [*P.y[old], *P.y[~old]])
    for classifier in (grown, whole):
        classifier.tune(P.Q, P.y_query).calibrate()
    assert grown.calibration_.temperature == pytest.approx(whole.calibration_.temperature, rel=1e-5)
    torch.testing.assert_close(grown.logits(P.Q), whole.logits(P.Q), rtol=0, atol=1e-5)
    grown.remove_class(P.classes[0]).calibrate()
    assert clone(grown).fit(P.X[P.y != P.classes[0]], P.y[P.y != P.classes[0]]).classes_.tolist() == P.classes[1:]


@pytest.mark.parametrize(
    ("labels", "new", "wrong"),
    [
        ([3, 1, 2], 7, "seven"),
        ([3, 1, 2], np.int64(7), True),
        (["a", "b", "c"], "a longer name", 3),
        (np.array([1, 2, 3], dtype=np.uint8), 9, 999),
        (np.array(["x", "y", "z"], dtype=object), "w", None),
        ([True, False], None, 1),
    ],
)
def test_labels_keep_their_type(labels: Any, new: Any, wrong: Any, tmp_path: Path) -> None:
    y = np.asarray(labels)[np.arange(9) % len(labels)]
    classifier = NearestMean().fit(P.X[:9], y)
    if wrong is not None:
        with pytest.raises(InputError, match="expected one like"):
            classifier.add_class(P.X[9:], wrong)
    if new is not None:
        classifier.add_class(P.X[9:], new)
        loaded = load_classifier(save_classifier(classifier, tmp_path / "a"))
        assert loaded.classes_.tolist() == [*sorted(labels), new]
        assert loaded.classes_.dtype.kind == y.dtype.kind
        assert loaded.remove_class(new).classes_.tolist() == sorted(labels)


def test_bad_input_changes_nothing() -> None:
    classifier = TipAdapter(text=P.text, classes=P.classes).fit(P.X, P.y)
    before = classifier.logits(P.Q)
    text = P.text[0]
    nan = np.full(P.d, np.nan)
    bad: list[tuple[Callable[[], object], str]] = [
        (lambda: classifier.add_class(P.X[:1], P.classes[0], text), "there is a class 'class z' already"),
        (lambda: classifier.add_class(P.X[:1], "new"), "fitted with texts; expected text"),
        (lambda: classifier.add_class(P.X[:1], "new", text[1:]), r"text has shape \(5,\); expected \(6,\)"),
        (lambda: classifier.add_class(P.X[:1], "new", nan), "finite"),
        (lambda: classifier.add_class(P.X[:1, 1:], "new", text), "15 features"),
        (lambda: classifier.add_class(P.X[:0], "new", text), "0 sample"),
        (lambda: classifier.add_class(np.full_like(P.X[:1], np.nan), "new", text), "NaN"),
        (lambda: classifier.remove_class("nothing"), "no class 'nothing'; known: class z, class y"),
        (lambda: NearestMean().fit(P.X, P.y).add_class(P.X[:1], "new", text), "fitted without texts"),
        (lambda: NearestMean().fit(P.X[:9], [0, 1, 2] * 3).remove_class(True), "no class True"),
        (lambda: NearestMean().fit(P.X[:9], [0, 1, 1] * 3).remove_class(1), "only one class would be left"),
    ]
    for call, message in bad:
        with pytest.raises(InputError, match=message):
            call()
    assert torch.equal(classifier.logits(P.Q), before)
    with pytest.raises(NotFittedError):
        TipAdapter().remove_class("a")
