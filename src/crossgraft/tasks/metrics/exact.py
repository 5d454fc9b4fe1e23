"""Means in percent, over all and by kind."""

from __future__ import annotations

from collections.abc import Sequence


def percent(values: Sequence[float]) -> float:
    """100 times the mean."""
    return 100 * sum(values) / len(values)


def by_kind(metric: str, values: Sequence[float], kinds: Sequence[str | None]) -> dict[str, float]:
    """{metric: percent of all, "metric.kind": percent of that kind, ...}, kinds in alphabetical order.

    Args:
        metric: name of the metric, such as "accuracy".
        values: a score in 0 to 1 for each example.
        kinds: the kind of each example; None belongs to no kind.
    """
    scores = {metric: percent(values)}
    for kind in sorted({kind for kind in kinds if kind is not None}):
        scores[f"{metric}.{kind}"] = percent([value for value, k in zip(values, kinds, strict=True) if k == kind])
    return scores
