"""Test labels that can score predictions but teach nothing.

In this field hyperparameters are often picked on test data (docs/protocols.md). Here a test set's labels are sealed
from the moment its list is read: every `fit` and `tune` refuses them, and nothing turns them back into an array. Only
whoever hands in a prediction for every image is told what each one shows (`reveal`), for the record of a finished run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Never

import numpy as np

from crossgraft.errors import InputError


class Truths(tuple[str, ...]):
    """What test images show, told after their prediction. Every `fit` and `tune` refuses these, too."""

    __crossgraft_sealed__ = True


class SealedLabels:
    """The labels of a test set. They score predictions; asking for the labels themselves is an error."""

    __crossgraft_sealed__ = True

    def __init__(self, labels: Sequence[int] | Sequence[str] | np.ndarray) -> None:
        self.__labels = np.array(labels)

    def __len__(self) -> int:
        return len(self.__labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SealedLabels) and np.array_equal(self.__labels, other.__labels)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: Sequence[int] | np.ndarray) -> SealedLabels:
        """The labels at these indices, still sealed."""
        return SealedLabels(self.__labels[np.asarray(indices, dtype=np.int64)])

    def score(self, predicted: np.ndarray) -> dict[str, float]:
        """Compare predictions (n,) with the labels -> accuracy, and macro_accuracy (the mean over classes), in percent.

        Raises:
            InputError: not one prediction a test sample.
        """
        hits = self.hits(predicted)
        per_class = [hits[self.__labels == label].mean() for label in np.unique(self.__labels)]
        return {"accuracy": float(hits.mean() * 100), "macro_accuracy": float(np.mean(per_class) * 100)}

    def hits(self, predicted: np.ndarray) -> np.ndarray:
        """Predictions (n,) -> (n,) bool: which of them are right.

        Raises:
            InputError: not one prediction a test sample.
        """
        predicted = np.asarray(predicted)
        if predicted.shape != self.__labels.shape:
            raise InputError(f"{predicted.shape} predictions for {len(self)} test samples")
        return predicted == self.__labels

    def reveal(self, predicted: np.ndarray) -> Truths:
        """Predictions (n,) -> the n true labels, to be written down beside them.

        Raises:
            InputError: not one prediction a test sample, or a prediction missing (None, an empty text, NaN).
        """
        self.hits(predicted)
        if any(one is None or one == "" or one != one for one in np.asarray(predicted).tolist()):
            raise InputError("test labels are told only beside a prediction for every test sample; some are missing")
        return Truths(str(label) for label in self.__labels.tolist())

    def __array__(self, *args: object, **kwargs: object) -> Never:
        raise InputError("test labels cannot be used for fitting, nor read as an array; use .score(predictions)")

    def __iter__(self) -> Iterator[Never]:
        raise InputError("test labels cannot be used for fitting, nor read one by one; use .score(predictions)")

    def __getitem__(self, index: object) -> Never:
        raise InputError("test labels cannot be used for fitting, nor read one by one; use .score(predictions)")

    def __reduce__(self) -> Never:
        raise InputError("test labels are not written anywhere")
