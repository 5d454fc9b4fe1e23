"""Test labels score and teach nothing; protocols say what `tune` may see."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from few_shot_problems import problem
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from crossgraft.errors import InputError
from crossgraft.fewshot import METHODS, get_method
from crossgraft.fewshot.data import ImageSplit
from crossgraft.fewshot.protocol import PROTOCOLS, check_protocol, validation_indices
from crossgraft.fewshot.sealed import SealedLabels

P = problem()


def test_scores_of_an_unbalanced_set() -> None:
    sealed = SealedLabels(["a", "a", "a", "b"])
    assert len(sealed) == 4
    assert sealed.score(np.array(["a", "a", "b", "b"])) == pytest.approx({"accuracy": 75.0, "macro_accuracy": 250 / 3})
    assert sealed.score(np.array(["a"] * 4)) == {"accuracy": 75.0, "macro_accuracy": 50.0}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.array(pairs).T
    score = SealedLabels(true).score(predicted)
    assert score["accuracy"] == pytest.approx((true == predicted).mean() * 100)
    recalls = [(predicted[true == label] == label).mean() for label in set(true.tolist())]
    assert score["macro_accuracy"] == pytest.approx(np.mean(recalls) * 100)


@pytest.mark.parametrize("predicted", [["a"], [["a", "b"]], "a", [], ["a", "b", "a"]])
def test_one_prediction_a_sample_is_needed(predicted: Any) -> None:
    with pytest.raises(InputError, match="for 2 test samples"):
        SealedLabels(["a", "b"]).score(predicted)


WAYS_OUT: dict[str, Callable[[SealedLabels], object]] = {
    "array": np.asarray,
    "float array": lambda sealed: np.array(sealed, dtype=float),
    "list": list,
    "unpacking": lambda sealed: [*sealed],
    "one label": lambda sealed: sealed[0],  # type: ignore[index]
    "a slice": lambda sealed: sealed[:],  # type: ignore[index]
    "membership": lambda sealed: 1 in sealed,  # type: ignore[operator]
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "unique": np.unique,
}


@pytest.mark.parametrize("way", WAYS_OUT.values(), ids=WAYS_OUT.keys())
def test_labels_do_not_come_out(way: Callable[[SealedLabels], object]) -> None:
    with pytest.raises(InputError, match=r"test labels (cannot be used for fitting|are not written anywhere)"):
        way(SealedLabels([1, 2]))


def test_truth_is_told_beside_a_prediction_for_every_image_and_teaches_nothing_even_then() -> None:
    sealed = SealedLabels(P.y)
    truths = sealed.reveal(P.y)
    assert list(truths) == P.y.tolist()
    for missing in ([], P.y[1:], np.array([*P.y[1:], None], dtype=object), np.array([*P.y[1:], ""]), P.y[None]):
        with pytest.raises(InputError, match=r"test (samples|labels)"):
            sealed.reveal(missing)
    classifier = get_method("gda")(text=P.text, classes=P.classes)
    with pytest.raises(InputError, match="test labels cannot be used for fitting"):
        classifier.fit(P.X, truths)
    with pytest.raises(InputError, match="test labels cannot be used for fitting"):
        classifier.fit(P.X, P.y).tune(P.X, truths)


def test_hits_need_one_prediction_a_sample() -> None:
    sealed = SealedLabels(["a", "b"])
    assert sealed.hits(np.array(["a", "a"])).tolist() == [True, False]
    with pytest.raises(InputError, match="for 2 test samples"):
        sealed.hits(np.array(["a"]))


@pytest.mark.parametrize("make", [torch.tensor, torch.as_tensor])
def test_torch_cannot_read_them_either(make: Callable[[Any], torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="SealedLabels"):
        make(SealedLabels([1, 2]))


def test_what_is_printed_or_written_holds_no_label() -> None:
    sealed = SealedLabels(["secret", "hidden"])
    assert "secret" not in repr(sealed) + str(sealed)
    with pytest.raises(TypeError):
        json.dumps(sealed)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_learns_from_sealed_labels(name: str) -> None:
    sealed = SealedLabels(P.y)
    classifier = get_method(name)(text=P.text, classes=P.classes)
    with pytest.raises(InputError, match="test labels cannot be used for fitting"):
        classifier.fit(P.X, sealed)
    with pytest.raises(InputError, match="test labels cannot be used for fitting"):
        classifier.fit(P.X, P.y).tune(P.X, sealed)


def test_nor_does_an_estimator_that_knows_nothing_of_us() -> None:
    with pytest.raises(InputError, match="test labels cannot be used for fitting"):
        LogisticRegression().fit(P.X, SealedLabels(P.y))


def test_protocols() -> None:
    assert PROTOCOLS == ("none", "min4", "full")
    for protocol in PROTOCOLS:
        check_protocol(protocol, has_val=True)
    check_protocol("min4", has_val=False)
    with pytest.raises(InputError, match="full needs a validation split"):
        check_protocol("full", has_val=False)
    with pytest.raises(InputError, match="'best' is unknown: choose from none, min4, full"):
        check_protocol("best", has_val=True)


def split(*counts: int) -> ImageSplit:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return ImageSplit(tuple(Path(f"{i}.png") for i in range(len(labels))), tuple(labels))


def test_what_each_protocol_shows_to_tune() -> None:
    val = split(6, 0, 3, 5)  # no image of class 1
    labels = np.array(val.labels)
    assert validation_indices(val, 4, 16, 0, "none").tolist() == []
    assert validation_indices(val, 4, 16, 0, "full").tolist() == list(range(14))
    for shots, counts in ((1, [1, 0, 1, 1]), (3, [3, 0, 3, 3]), (16, [4, 0, 3, 4]), ("all", [4, 0, 3, 4])):
        chosen = validation_indices(val, 4, shots, 0, "min4")  # type: ignore[arg-type]
        assert len(set(chosen.tolist())) == len(chosen)
        assert np.bincount(labels[chosen], minlength=4).tolist() == counts


def test_min4_depends_on_the_seed_alone_and_grows_with_the_shots() -> None:
    val = split(20, 20)
    draws = [set(validation_indices(val, 2, 4, seed, "min4").tolist()) for seed in range(4)]
    assert len({frozenset(draw) for draw in draws}) > 1
    assert draws[1] == set(validation_indices(val, 2, 4, 1, "min4").tolist())
    assert set(validation_indices(val, 2, 2, 1, "min4").tolist()) < draws[1]
