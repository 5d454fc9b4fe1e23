"""How hyperparameters may be chosen, and test labels that can score predictions but teach nothing.

In this field hyperparameters are often picked on test data (docs/protocols.md). Here a test set's labels are sealed:
every `fit` and `tune` refuses them, and nothing turns them back into an array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Never, get_args

import numpy as np

from crossgraft.errors import InputError
from crossgraft.fewshot.data import ImageSplit, sample_support

Protocol = Literal["none", "min4", "full"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
MIN4 = 4


class SealedLabels:
    """The labels of a test set. They score predictions; asking for the labels themselves is an error."""

    __crossgraft_sealed__ = True

    def __init__(self, labels: Sequence[int] | Sequence[str] | np.ndarray) -> None:
        self.__labels = np.array(labels)

    def __len__(self) -> int:
        return len(self.__labels)

    def score(self, predicted: np.ndarray) -> dict[str, float]:
        """Compare predictions (n,) with the labels -> accuracy, and macro_accuracy (the mean over classes), in percent.

        Raises:
            InputError: not one prediction a test sample.
        """
        predicted = np.asarray(predicted)
        if predicted.shape != self.__labels.shape:
            raise InputError(f"{predicted.shape} predictions for {len(self)} test samples")
        hits = predicted == self.__labels
        per_class = [hits[self.__labels == label].mean() for label in np.unique(self.__labels)]
        return {"accuracy": float(hits.mean() * 100), "macro_accuracy": float(np.mean(per_class) * 100)}

    def __array__(self, *args: object, **kwargs: object) -> Never:
        raise InputError("test labels cannot be used for fitting, nor read as an array; use .score(predictions)")

    def __iter__(self) -> Iterator[Never]:
        raise InputError("test labels cannot be used for fitting, nor read one by one; use .score(predictions)")

    def __getitem__(self, index: object) -> Never:
        raise InputError("test labels cannot be used for fitting, nor read one by one; use .score(predictions)")

    def __reduce__(self) -> Never:
        raise InputError("test labels are not written anywhere")


def check_protocol(protocol: str, has_val: bool) -> None:
    """Raise InputError for an unknown protocol, or `full` without a validation split."""
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r} is unknown: choose from {', '.join(PROTOCOLS)}")
    if protocol == "full" and not has_val:
        raise InputError("protocol full needs a validation split, and this data has none; use none or min4")


def validation_indices(
    val: ImageSplit, n_classes: int, shots: int | Literal["all"], seed: int, protocol: Protocol
) -> np.ndarray:
    """Which images of the validation split the protocol lets `tune` see: none; min(K, 4) a class; all."""
    if protocol == "none":
        return np.empty(0, dtype=np.int64)
    if protocol == "full":
        return np.arange(len(val))
    limit = MIN4 if shots == "all" else min(shots, MIN4)
    labels = np.asarray(val.labels)
    present = np.unique(labels)
    # A class with fewer validation images gives those it has; one with none gives none.
    compact = ImageSplit(val.paths, tuple(int(i) for i in np.searchsorted(present, labels)))
    drawn = sample_support(compact, len(present), "all", seed)
    return np.concatenate([drawn[np.asarray(compact.labels)[drawn] == c][:limit] for c in range(len(present))])
