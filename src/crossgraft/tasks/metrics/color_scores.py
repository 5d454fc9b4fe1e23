"""Scores of object colours: accuracy with its uncertainty over objects, confusion, agreement with people's shares.

Objects are few (109 in Memory Colors), so a figure without its interval says little: intervals are percentiles of a
bootstrap over objects (Efron and Tibshirani 1993, chapter 13). Prompts are a fixed list: they are not drawn anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Whole = NDArray[np.integer[Any]]
RESAMPLES, LEVEL = 10_000, 0.95
_AT_ONCE = 1_000_000  # draws that are held in memory


class Interval(NamedTuple):
    """A mean over objects, and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Floats, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> Interval:
    """The mean of a value an object (n,), with its percentile interval over resampled objects.

    Args:
        seed: of the draws; the same seed and number of objects draw the same objects.
        level: share of the resampled means that lies in the interval.
    """
    values = np.asarray(values, dtype=np.float64)
    count, rng = len(values), np.random.default_rng(seed)
    step = max(1, _AT_ONCE // count)
    means = [
        values[rng.integers(count, size=(min(step, resamples - start), count))].mean(1)
        for start in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(
    one: Floats, other: Floats, *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """How much more often `one` is right than `other`, on the same objects in the same order: model minus control.

    Args:
        one, other: whether each answer is right, (prompts, n) or (n,); the lists of prompts may differ.

    Returns:
        The difference of their means over prompts and objects; its interval, of objects drawn for both at once, is
        narrower than two intervals side by side suggest.
    """
    first, second = (np.atleast_2d(np.asarray(right, dtype=np.float64)).mean(0) for right in (one, other))
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} objects and {len(second)} objects; a paired difference needs the same ones")
    return bootstrap(first - second, seed=seed, resamples=resamples, level=level)


def without_bias(scores: Floats) -> Floats:
    """Scores (prompts, n, colours) less what the prompt gives each colour on average over all n objects.

    No label is used, but all objects asked about are: it tells what a model knows behind a prompt's favourite colour,
    and is no score of answers that are given one at a time.
    """
    return scores - scores.mean(axis=1, keepdims=True)


def confusion(answers: Whole, truths: Whole, colors: int) -> Whole:
    """How often objects of each colour (row) got each answer (column), over all prompts: (colours, colours).

    Args:
        answers: (prompts, n), places in the list of colours; truths: (n,).
    """
    pairs = np.broadcast_to(truths, answers.shape) * colors + answers
    return np.bincount(pairs.ravel(), minlength=colors**2).reshape(colors, colors)


def recalls(counts: Whole) -> list[float | None]:
    """Of each colour, the share of its answers that are right; None where no object has it."""
    totals = counts.sum(1)
    return [float(right / total) if total else None for right, total in zip(counts.diagonal(), totals, strict=True)]


def majority(truths: Whole) -> tuple[int, float]:
    """The most frequent colour (the first of equals), and how often it alone would be right."""
    counts = np.bincount(truths)
    return int(counts.argmax()), float(counts.max() / len(truths))


def agreement(scores: Floats, shares: Floats) -> dict[str, Floats]:
    """How near a model's shares are to people's, as CoDa measures it: for each metric (prompts, n).

    Args:
        scores: log-probabilities (prompts, n, colours); the model's shares are their softmax over the colours.
        shares: people's (n, colours), in sum 1.
    """
    own = np.exp(scores - scores.max(-1, keepdims=True))
    own, people = own / own.sum(-1, keepdims=True), np.broadcast_to(shares, scores.shape)
    return {
        "jensen_shannon": jensen_shannon(own, people),
        "spearman": spearman(own, people),
        "kendall": kendall(own, people),
    }


def jensen_shannon(one: Floats, other: Floats) -> Floats:
    """Divergence of shares over the last axis from their mean, in nats: 0 (equal) to log 2 (nothing in common).

    CoDa's `jensenshannon_div`; the distance that SciPy gives is its root.
    """
    middle = (one + other) / 2
    return (_relative_entropy(one, middle) + _relative_entropy(other, middle)) / 2


def _relative_entropy(one: Floats, other: Floats) -> Floats:
    some = one > 0
    ratio = np.divide(one, other, out=np.ones_like(one), where=some)
    return np.asarray((one * np.log(np.where(some, ratio, 1.0))).sum(-1))


def spearman(one: Floats, other: Floats) -> Floats:
    """Rank correlation over the last axis, equals sharing the mean of their ranks; 0 where one side is all equal."""
    return _cosine(_centred(_ranks(one)), _centred(_ranks(other)))


def kendall(one: Floats, other: Floats) -> Floats:
    """Kendall's tau-b over the last axis; 0 where one side is all equal."""
    return _cosine(_orders(one), _orders(other))


def _ranks(values: Floats) -> Floats:
    return _orders(values).reshape(*values.shape, values.shape[-1]).sum(-1) / 2


def _orders(values: Floats) -> Floats:
    """For each pair of the last axis which is larger, as -1, 0 or 1: (..., k * k)."""
    signs = np.sign(values[..., :, None] - values[..., None, :])
    return np.asarray(signs.reshape(*values.shape[:-1], -1))


def _centred(values: Floats) -> Floats:
    return np.asarray(values - values.mean(-1, keepdims=True))


def _cosine(one: Floats, other: Floats) -> Floats:
    lengths = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    products = (one * other).sum(-1)
    return np.asarray(np.divide(products, lengths, out=np.zeros_like(products, dtype=np.float64), where=lengths > 0))
