"""Pure functions that every few-shot solver stands on: reading features, unit vectors, support sets."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data
from torch import Tensor

from crossgraft.errors import InputError

# A block of queries is cut so that its widest intermediate holds at most this many elements (64 MiB in float32).
BLOCK_ELEMENTS = 2**24
# Elements of a block that stays in a processor's cache, and queries in a block that a matrix product is fast with.
CACHE_ELEMENTS, EFFICIENT_ROWS = 2**20, 256

# Logit of a class that a method without text has never seen: its probability is zero, and the logit stays finite.
ABSENT_LOGIT = -1e4


@dataclass(frozen=True)
class Support:
    """The labelled examples a solver learns from.

    Attributes:
        embedding: (M, d) unit image embeddings, in the space of the texts.
        key: (M, f) unit cache keys (the embeddings themselves where no separate key was given).
        labels: (M,) int64, row of the class in `text`.
        text: (N, d) unit class text embeddings (class means of `embedding` where no text was given).
        texts: (N, P, d) the unit embeddings of up to P texts a class, of which `text` is the unit mean; rows of zeros
            where a class has fewer. P = 1 where one embedding a class was given.
    """

    embedding: Tensor
    key: Tensor
    labels: Tensor
    text: Tensor
    texts: Tensor

    @property
    def n_classes(self) -> int:
        return self.text.shape[0]

    @property
    def counts(self) -> Tensor:
        """(N,) number of samples of each class; zero for a class known by its text alone."""
        return torch.bincount(self.labels, minlength=self.n_classes)

    def take(self, chosen: Tensor) -> Support:
        """The samples that `chosen` (M,) bool picks; the texts stay."""
        return Support(self.embedding[chosen], self.key[chosen], self.labels[chosen], self.text, self.texts)


@contextmanager
def many_classes() -> Iterator[None]:
    """Silence scikit-learn's suspicion that integer labels with few samples a class are a regression target."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        yield


def unit(x: Tensor) -> Tensor:
    """Scale the rows of x (..., d) to length one; a zero row stays zero."""
    # Dividing by the largest entry first keeps the squares of very large or very small features representable.
    largest = x.abs().amax(dim=-1, keepdim=True)
    x = x / torch.where(largest > 0, largest, torch.ones_like(largest))
    return torch.nn.functional.normalize(x, dim=-1)


def read_features(
    estimator: BaseEstimator, X: Any, y: Any = "no_validation", *, reset: bool
) -> tuple[Tensor, np.ndarray | None]:
    """Check X (n, p), and y (n,) if given, the way scikit-learn does, and return X as a tensor where it lives.

    float64 stays float64; every other float type becomes float32.

    Raises:
        InputError: not two-dimensional, empty, another width than at `fit`, NaN or infinity, y of another length.
        TypeError: sparse X.
    """
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    try:
        if isinstance(X, Tensor):
            return _read_tensor(estimator, X.detach(), y, reset=reset)
        if getattr(X, "dtype", None) == np.float16:
            X = X.astype(np.float32)
        checked = validate_data(
            estimator, X, y, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite=False, copy=True
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
    X, y = checked if isinstance(checked, tuple) else (checked, None)
    features = torch.from_numpy(np.ascontiguousarray(X))
    _refuse_non_finite(features)
    return features, y


def _read_tensor(estimator: BaseEstimator, X: Tensor, y: Any, *, reset: bool) -> tuple[Tensor, np.ndarray | None]:
    """`read_features` for a tensor on any device, which NumPy cannot hold (bfloat16, GPU)."""
    if X.ndim != 2 or 0 in X.shape:
        raise InputError(f"features (X) have shape {tuple(X.shape)}; expected (n, p) with n >= 1 and p >= 1")
    validate_data(estimator, X, y, reset=reset, skip_check_array=True)
    features = X if X.dtype == torch.float64 else X.float()
    _refuse_non_finite(features)
    if isinstance(y, str):
        return features, None
    y = column_or_1d(y, warn=True)
    check_consistent_length(features, y)
    return features, y


def _refuse_non_finite(features: Tensor) -> None:
    if torch.isfinite(features.sum()):  # the common case, in one pass; a sum may also overflow
        return
    bad = torch.nonzero(~torch.isfinite(features).all(dim=1)).flatten()
    if len(bad):
        rows = ", ".join(str(int(row)) for row in bad[:5]) + (", ..." if len(bad) > 5 else "")
        raise InputError(
            f"features (X) contain NaN or infinity (inf) in {len(bad)} of {len(features)} rows ({rows}); "
            "leave those images out or encode them again"
        )


def blocks(n: int, width: int, *, in_cache: bool = False) -> Iterator[slice]:
    """Cut n queries into slices whose (rows, width) intermediates stay within `BLOCK_ELEMENTS`.

    `in_cache` cuts smaller: within `CACHE_ELEMENTS`, if that leaves `EFFICIENT_ROWS`.
    """
    width = max(1, width)
    rows = BLOCK_ELEMENTS // width
    if in_cache:
        rows = min(rows, max(CACHE_ELEMENTS // width, EFFICIENT_ROWS))
    rows = max(1, rows)
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def mean_text(texts: Tensor) -> Tensor:
    """Unit mean over the texts (N, P, d) of each class, rows of zeros left out -> (N, d) (Radford et al., 3.1.4)."""
    return unit(unit(texts).sum(dim=1))


def class_sums(x: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Sum the rows of x (M, f) that share a label -> (N, f)."""
    return x.new_zeros(n_classes, x.shape[1]).index_add_(0, labels, x)


def class_means(x: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Mean of the rows of x (M, f) of each class -> (N, f), not normalised; zero for a class without a sample."""
    counts = torch.bincount(labels, minlength=n_classes).clamp(min=1)
    return class_sums(x, labels, n_classes) / counts[:, None].to(x.dtype)
