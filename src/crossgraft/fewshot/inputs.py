"""What users hand to a classifier, read and checked: texts, classes, labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.fewshot.features import unit


def as_tensor(array: Any) -> Tensor:
    """A tensor as it is; anything else by way of NumPy."""
    return array if isinstance(array, Tensor) else torch.as_tensor(np.asarray(array))


def read_texts(text: Any, features: Tensor) -> Tensor:
    """`text` as unit (N, P, d), where the features (n, p) are and in their precision."""
    text = as_tensor(text)
    if text.ndim not in (2, 3) or len(text) < 2 or 0 in text.shape:
        raise InputError(
            f"text has shape {tuple(text.shape)}; expected (N, d), one row for each of N >= 2 classes, or (N, P, d)"
        )
    if not torch.isfinite(text).all():
        raise InputError("text contains NaN or infinity (inf); encode the class names again")
    if features.shape[1] < text.shape[-1]:
        raise InputError(
            f"features (X) have {features.shape[1]} columns, fewer than the {text.shape[-1]} of text; "
            "expected the image embedding in the text's space first, then the cache key"
        )
    text = text.detach().to(features.device, features.dtype)
    return unit(text[:, None] if text.ndim == 2 else text)


def read_classes(given: Sequence[Any] | None, y: np.ndarray, text: Tensor | None) -> np.ndarray:
    """The labels (N,) in the order of the texts: those given, else those of y, sorted."""
    classes = np.unique(y) if given is None else np.asarray(given)
    if classes.ndim != 1 or len(np.unique(classes)) != len(classes):
        raise InputError("classes must be a flat list of distinct labels")
    if text is not None and len(text) != len(classes):
        hint = "" if given is not None else " in y; pass classes= to name the rows of text"
        raise InputError(f"text has {len(text)} rows but there are {len(classes)} classes{hint}")
    if len(classes) < 2:
        raise InputError(f"one class only ({classes.tolist()}); a classifier needs at least two")
    return classes


def encode_labels(y: np.ndarray, classes: np.ndarray) -> Tensor:
    """Labels (n,) -> their rows in the classes (N,), int64."""
    rows = {label: row for row, label in enumerate(classes.tolist())}
    unknown = sorted({str(label) for label in y.tolist() if label not in rows})
    if unknown:
        raise InputError(
            f"y holds labels outside classes: {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}"
        )
    return torch.tensor([rows[label] for label in y.tolist()], dtype=torch.int64)


def split_features(features: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """X (n, p) -> unit embedding (n, d) and unit key (n, f)."""
    embedding = unit(features[:, :d])
    return embedding, embedding if features.shape[1] == d else unit(features[:, d:])


def refuse_sealed(y: Any) -> None:
    """Test labels come as an object of a class marked `__crossgraft_sealed__`; nothing may learn from them."""
    if getattr(type(y), "__crossgraft_sealed__", False):
        raise InputError("test labels cannot be used for fitting; use the support or validation labels")


def refuse_empty(labels: Tensor, classes: np.ndarray) -> None:
    """Raise InputError for a class without a sample."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    empty = [str(label) for label, count in zip(classes.tolist(), counts, strict=True) if not count]
    if empty:
        raise InputError(f"no sample of class {', '.join(empty[:5])}; without text every class needs at least one")
