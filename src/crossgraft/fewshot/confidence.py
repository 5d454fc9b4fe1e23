"""How far stated probabilities can be trusted: reliability, expected calibration error, accuracy at a coverage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crossgraft.errors import InputError

BINS = 15
COVERAGES = tuple(range(50, 101, 5))
"""Percent of the images that are answered, the surest first."""


@dataclass(frozen=True)
class Reliability:
    """Predictions sorted by their probability into bins of equal width over (0, 1].

    Attributes:
        count: (B,) predictions in each bin.
        confidence, accuracy: (B,) their mean probability, and the share that is right, both 0 to 1; 0 in an empty bin.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error, 0 to 1: the mean over predictions of |accuracy - confidence| of their bin
        (Guo et al., On Calibration of Modern Neural Networks, 2017, equation 3)."""
        return float((self.count * np.abs(self.accuracy - self.confidence)).sum() / self.count.sum())

    @classmethod
    def pooled(cls, parts: list[Reliability]) -> Reliability:
        """The bins of several sets of predictions together."""
        count = np.sum([part.count for part in parts], axis=0)
        confidence, accuracy = (
            np.sum([part.count * getattr(part, name) for part in parts], axis=0) / np.maximum(count, 1)
            for name in ("confidence", "accuracy")
        )
        return cls(count, confidence, accuracy)


def reliability(hits: Any, confidence: Any, bins: int = BINS) -> Reliability:
    """hits (n,) bool: whether each prediction is right; confidence (n,): its probability, 0 to 1.

    Raises:
        InputError: of different lengths, none at all, or no probabilities.
    """
    hits, confidence = _checked(hits, confidence)
    row = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(row, minlength=bins)
    each = np.maximum(count, 1)
    return Reliability(
        count, np.bincount(row, confidence, minlength=bins) / each, np.bincount(row, hits, minlength=bins) / each
    )


def accuracy_at_coverage(hits: Any, confidence: Any, coverages: tuple[int, ...] = COVERAGES) -> list[float]:
    """Accuracy in percent of the surest predictions, one for each coverage in percent (the reject curve).

    hits and confidence as in `reliability`. Predictions of equal confidence are taken in no order: the cut through them
    counts their mean, so that the order of the images changes nothing.
    """
    hits, confidence = _checked(hits, confidence)
    values, group, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    right = np.bincount(group, hits, minlength=len(values))
    ends, hits_until = np.cumsum(size), np.cumsum(right)
    result = []
    for coverage in coverages:
        kept = max(1, int(np.ceil(len(hits) * coverage / 100)))
        cut = int(np.searchsorted(ends, kept))
        before = ends[cut] - size[cut]
        found = hits_until[cut] - right[cut] + (kept - before) * right[cut] / size[cut]
        result.append(float(100 * found / kept))
    return result


def _checked(hits: Any, confidence: Any) -> tuple[np.ndarray, np.ndarray]:
    hits, confidence = np.asarray(hits, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
    if hits.ndim != 1 or hits.shape != confidence.shape or not len(hits):
        raise InputError(f"{confidence.shape} probabilities for {hits.shape} predictions; expected one each, (n,)")
    # float32 softmax may exceed 1 by its last bit.
    if not ((confidence >= 0) & (confidence <= 1 + 1e-5)).all():
        raise InputError("probabilities outside 0 to 1, or NaN; expected what predict_proba gives")
    return hits, np.minimum(confidence, 1.0)
