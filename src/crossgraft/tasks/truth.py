"""What tasks of a few fixed labels share: labels become words to generate, and accuracy counts the right ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crossgraft.errors import InputError
from crossgraft.tasks.base import Example
from crossgraft.tasks.files import Row, references
from crossgraft.tasks.metrics.exact import percent

TRUE_OR_FALSE = ("true", "false")


def label_of(row: Row, key: str, labels: tuple[str, ...]) -> str | None:
    """The label of a row in lower case; None where the row has no label at all.

    Raises:
        InputError: it is none of `labels`.
    """
    if key not in row.values:
        return None
    value = str(row.get(key, str, bool)).strip().lower()
    if value not in labels:
        raise InputError(f"{row.where}: {key!r} must be one of {', '.join(labels)}, found {row.values[key]!r:.40}")
    return value


def targets_of(label: str | None) -> tuple[tuple[str, float], ...]:
    """The label as the one right answer, or nothing."""
    return () if label is None else ((label, 1.0),)


def consistency(
    examples: Sequence[Example], answers: Sequence[str], sentence_of: Callable[[str], str]
) -> dict[str, float]:
    """Accuracy, and consistency: the share of sentences that are judged rightly with all of their images, in percent.

    Args:
        examples: their references are "true" or "false".
        answers: one an example.
        sentence_of: what an example's id says about its sentence.
    """
    right = [
        answer.strip().lower() == truth for answer, truth in zip(answers, references(examples, answers), strict=True)
    ]
    consistent: dict[str, bool] = {}
    for example, good in zip(examples, right, strict=True):
        sentence = sentence_of(example.id)
        consistent[sentence] = consistent.get(sentence, True) and good
    return {"accuracy": percent(right), "consistency": percent(list(consistent.values()))}
