"""Heads as modules: which of them are one matrix product, and that each gives what its classifier gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossgraft.fewshot import METHODS, FewShotClassifier
from crossgraft.fewshot.linear_form import linear_form
from crossgraft.serving.heads import Head

LINEAR = ("zero-shot", "linear-probe", "nearest-mean", "gda")
CURVED = ("tip-adapter", "tip-adapter-f", "proker", "xmadapter-paper", "xmadapter", "auto")
CLASSES = ["ant", "bee", "cat", "dog"]
D, F = 6, 10


def features(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, D + F, generator=torch.Generator().manual_seed(seed))


def fitted(method: str, *, text: bool = True, dtype: torch.dtype = torch.float32) -> FewShotClassifier:
    W = torch.randn(len(CLASSES), D, generator=torch.Generator().manual_seed(5)) if text else None
    classifier = METHODS[method](text=W, classes=CLASSES)
    return classifier.fit(features(16, 1).to(dtype), np.repeat(CLASSES, 4))


@pytest.mark.parametrize("method", LINEAR)
def test_linear_methods_collapse_whatever_they_are_made_of(method: str) -> None:
    classifier = fitted(method)
    form = linear_form(classifier)
    assert form is not None
    weight, bias = form
    assert (weight.shape, bias.shape) == ((len(CLASSES), D + F), (len(CLASSES),))
    X = features(9, 2)
    parts = [torch.nn.functional.normalize(part, dim=1) for part in (X[:, :D], X[:, D:])]
    logits = torch.cat(parts, dim=1).double() @ weight.T + bias
    torch.testing.assert_close(logits.float(), classifier.logits(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", CURVED)
def test_caches_and_kernels_do_not(method: str) -> None:
    assert linear_form(fitted(method)) is None


def test_a_cache_without_weight_is_linear_after_all() -> None:
    """What counts is what the classifier does, not what it is called."""
    classifier = fitted("tip-adapter").set_params(alpha=0.0)
    assert linear_form(classifier) is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text", [True, False], ids=["text", "no text"])
@pytest.mark.parametrize("method", METHODS)
def test_every_head_gives_what_its_classifier_gives(method: str, text: bool, dtype: torch.dtype) -> None:
    classifier = fitted(method, text=text, dtype=dtype)
    X = features(9, 2)
    with torch.no_grad():
        logits, probabilities = Head(classifier)(X)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, classifier.logits(X.to(dtype)).float(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(probabilities, classifier.predict_proba(X.to(dtype)), atol=1e-4)


def test_a_head_leaves_its_classifier_as_it_was() -> None:
    classifier = fitted("proker", dtype=torch.float64)
    before = classifier.predict_proba(features(9, 2))
    Head(classifier)(features(3, 3))
    assert classifier.keys_.dtype == torch.float64
    np.testing.assert_array_equal(classifier.predict_proba(features(9, 2)), before)
