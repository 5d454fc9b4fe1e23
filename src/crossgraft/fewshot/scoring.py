"""Scoring a fitted classifier on sealed test sets, and the record of single images that a report shows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.confidence import Reliability, accuracy_at_coverage, reliability
from crossgraft.fewshot.sealed import SealedLabels

TOP = 5
MISSES, HITS = 12, 8
"""Of how many wrong and right predictions of a test set the evidence is recorded."""
# Rows of probabilities at a time: 4096 x 1000 classes in float32 are 16 MB.
_ROWS = 4096


@dataclass(frozen=True)
class Features:
    """Encoded images: X (n, p) as the estimators take it, where each row came from, and the files' SHA-256 (hex)."""

    X: Tensor
    paths: tuple[Path, ...]
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class TestSet:
    """A test set whose labels only score."""

    __test__ = False  # no test case, whatever pytest thinks of the name

    features: Features
    labels: SealedLabels


@dataclass(frozen=True)
class Answers:
    """What a classifier says about n images.

    Attributes:
        labels: (n,) what `predict` returns.
        probability: (n,) the probability of that label, by `predict_proba`.
        top, top_probability: (n, T) the likeliest rows of `classes_`, and their probabilities.
    """

    labels: np.ndarray
    probability: np.ndarray
    top: np.ndarray
    top_probability: np.ndarray


@dataclass(frozen=True)
class TestScore:
    """What one fit scored on one test set.

    `metrics`: accuracy, macro_accuracy and calibration_error, in percent. `coverage`: accuracy in percent at each of
    `confidence.COVERAGES`.
    """

    __test__ = False

    metrics: dict[str, float]
    reliability: Reliability
    coverage: list[float]


@dataclass(frozen=True)
class TestRecord:
    """A test set image by image, as one fit saw it.

    `truth` (n,) are rows of the classes, as `answers.top`; `evidence` holds, for some images, what `explain` says, with
    the image's row as `index`; None for methods that keep no evidence.
    """

    __test__ = False

    features: Features
    truth: np.ndarray
    predicted: np.ndarray
    answers: Answers
    evidence: list[dict[str, Any]] | None


def answers(classifier: FewShotClassifier, X: Tensor) -> tuple[Answers, float]:
    """X (n, p) -> what the classifier says, and the seconds that `predict` took."""
    start = time.perf_counter()
    labels = classifier.predict(X)
    seconds = time.perf_counter() - start
    rows = _rows_of(classifier.classes_.tolist(), labels)
    size = min(TOP, len(classifier.classes_))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for begin in range(0, len(X), _ROWS):
        cut = slice(begin, begin + _ROWS)
        proba = classifier.predict_proba(X[cut])
        best = np.argsort(-proba, axis=1, kind="stable")[:, :size]
        own = np.take_along_axis(proba, rows[cut, None], axis=1)[:, 0]
        parts.append((own, best, np.take_along_axis(proba, best, axis=1)))
    probability, top, top_probability = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Answers(labels, probability, top, top_probability), seconds


def score(given: Answers, labels: SealedLabels) -> TestScore:
    """Compare answers with sealed labels."""
    hits = labels.hits(given.labels)
    bins = reliability(hits, given.probability)
    metrics = labels.score(given.labels) | {"calibration_error": 100 * bins.error}
    return TestScore(metrics, bins, accuracy_at_coverage(hits, given.probability))


def record(
    classifier: FewShotClassifier, tests: Mapping[str, TestSet], given: Mapping[str, Answers]
) -> dict[str, TestRecord]:
    """The record of every test set, once the answers are given; with evidence for a sample of misses and hits."""
    classes = classifier.classes_.tolist()
    result = {}
    for name, test in tests.items():
        said = given[name]
        truth = _rows_of(classes, test.labels.reveal(said.labels))
        predicted = _rows_of(classes, said.labels)
        evidence = None
        if hasattr(classifier, "explain"):
            chosen = sample(truth == predicted, said.probability)
            explained = classifier.explain(test.features.X[chosen]) if chosen else []
            evidence = [
                {"index": row, "hit": bool(truth[row] == predicted[row])} | asdict(one)
                for row, one in zip(chosen, explained, strict=True)
            ]
        result[name] = TestRecord(test.features, truth, predicted, said, evidence)
    return result


def sample(hits: np.ndarray, confidence: np.ndarray, misses: int = MISSES, right: int = HITS) -> list[int]:
    """Rows to explain: the most confident misses, then hits spread evenly from the surest to the least sure."""
    order = np.argsort(-confidence, kind="stable")
    wrong, good = order[~hits[order]], order[hits[order]]
    spread = np.unique(np.linspace(0, len(good) - 1, min(right, len(good))).round().astype(np.int64))
    return [*wrong[:misses].tolist(), *good[spread].tolist()]


def _rows_of(classes: Sequence[Any], labels: Any) -> np.ndarray:
    """Labels -> (n,) their rows in the classes."""
    rows = {str(name): row for row, name in enumerate(classes)}
    return np.array([rows[str(label)] for label in labels], dtype=np.int64)
