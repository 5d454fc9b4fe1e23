"""Metrics of GLUE beside accuracy: how far two lists agree, of yes and no or of numbers.

Equal to scikit-learn's `f1_score` and `matthews_corrcoef` and SciPy's `pearsonr` and `spearmanr`, by which GLUE is
scored, but for lists without any difference in them: there they are undefined (or warn), and 0 here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def f1(truths: Sequence[bool], guesses: Sequence[bool]) -> float:
    """2 x both / (true + guessed), 0 to 1; 0 where nothing is true or guessed."""
    both = sum(truth and guess for truth, guess in zip(truths, guesses, strict=True))
    return 2 * both / max(sum(truths) + sum(guesses), 1)


def matthews(truths: Sequence[bool], guesses: Sequence[bool]) -> float:
    """Matthews correlation, -1 to 1: Pearson's of yes as 1 and no as 0."""
    return pearson([float(truth) for truth in truths], [float(guess) for guess in guesses])


def pearson(truths: Sequence[float], guesses: Sequence[float]) -> float:
    """Pearson correlation, -1 to 1."""
    one, other = (np.asarray(values, dtype=np.float64) for values in (truths, guesses))
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def spearman(truths: Sequence[float], guesses: Sequence[float]) -> float:
    """Spearman correlation, -1 to 1: Pearson's of ranks, where equals share the mean of theirs."""
    return pearson(_ranks(truths).tolist(), _ranks(guesses).tolist())


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
