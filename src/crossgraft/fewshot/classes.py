"""One class more or less in a fitted or loaded classifier, without the samples of the other classes.

What a method's own tensors become, its `_with_class` and `_without_class` say; here is what all methods share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from crossgraft.errors import InputError
from crossgraft.fewshot.features import Support, mean_text, unit
from crossgraft.fewshot.inputs import as_tensor

if TYPE_CHECKING:
    from crossgraft.fewshot.base import FewShotClassifier


def add_class(classifier: FewShotClassifier, embedding: Tensor, key: Tensor, label: Any, text: Any) -> None:
    """Add a class of samples with unit embedding (m, d), key (m, f); see `FewShotClassifier.add_class`."""
    classes = _with_label(classifier.classes_, label)
    texts = _read_text(classifier, embedding, text)
    all_texts = torch.cat([classifier.text_, mean_text(texts[None])])
    changed = classifier._with_class(texts, embedding, key)
    # Nothing has been changed up to here, so that an error leaves the classifier as it was.
    support = getattr(classifier, "_support", None)
    if support is not None:
        classifier._support = Support(
            torch.cat([support.embedding, embedding]),
            torch.cat([support.key, key]),
            torch.cat([support.labels, support.labels.new_full((len(key),), len(classes) - 1)]),
            all_texts,
            _append(support.texts, texts),
        )
    if classifier.text is not None:
        given = as_tensor(classifier.text)
        classifier.text = _append(given if given.ndim == 3 else given[:, None], texts.to(given))
    _take_over(classifier, changed, all_texts, classes)


def remove_class(classifier: FewShotClassifier, label: Any) -> None:
    """Remove a class; see `FewShotClassifier.remove_class`."""
    row = _row(classifier.classes_, label)
    if row is None:
        known = [str(name) for name in classifier.classes_.tolist()]
        raise InputError(f"no class {label!r}; known: {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}")
    if len(classifier.classes_) == 2:
        raise InputError(f"only one class would be left without {label!r}; a classifier needs at least two")
    kept = [other for other in range(len(classifier.classes_)) if other != row]
    changed = classifier._without_class(row)
    support = getattr(classifier, "_support", None)
    if support is not None:
        rows = support.labels != row
        classifier._support = Support(
            support.embedding[rows],
            support.key[rows],
            _relabelled(support.labels, row),
            support.text[kept],
            support.texts[kept],
        )
    if classifier.text is not None:
        classifier.text = as_tensor(classifier.text)[kept]
    _take_over(classifier, changed, classifier.text_[kept], classifier.classes_[kept])


def drop_class(classifier: FewShotClassifier, row: int) -> dict[str, Any]:
    """A method's state without what belongs to the class in this row: its entry along N, its samples' along M.

    Where the method trains, the trained parameters that go are no longer counted.
    """
    changed: dict[str, Any] = {}
    gone = 0
    for name, symbols in classifier.state.items():
        before = value = getattr(classifier, name)
        for axis, symbol in enumerate(symbols):
            if symbol == "N":
                value = value.index_select(axis, _others(len(classifier.text_), row, value))
            elif symbol == "M":
                value = value.index_select(axis, torch.nonzero(classifier.labels_ != row)[:, 0])
        changed[name] = _relabelled(before, row) if name == "labels_" else value
        gone += before.numel() - value.numel()
    if classifier.n_parameters_:
        changed["n_parameters_"] = classifier.n_parameters_ - gone
    return changed


def _take_over(classifier: FewShotClassifier, changed: dict[str, Any], texts: Tensor, classes: np.ndarray) -> None:
    for name, value in changed.items():
        setattr(classifier, name, value.contiguous() if isinstance(value, Tensor) else value)
    classifier.text_, classifier.classes_ = texts.contiguous(), classes
    if classifier.text is not None:
        classifier.classes = classes.tolist()
    if classifier.calibration_ is not None:
        classifier.calibration_ = classifier.calibration_.edited()


def _others(n: int, row: int, like: Tensor) -> Tensor:
    rows = torch.arange(n, device=like.device)
    return rows[rows != row]


def _relabelled(labels: Tensor, row: int) -> Tensor:
    """Labels without those of a class, the later classes moved up."""
    labels = labels[labels != row]
    return labels - (labels > row).to(labels)


def _row(classes: np.ndarray, label: Any) -> int | None:
    label = label.item() if isinstance(label, np.generic) else label
    same = [row for row, known in enumerate(classes.tolist()) if type(known) is type(label) and known == label]
    return same[0] if same else None


def _with_label(classes: np.ndarray, label: Any) -> np.ndarray:
    """The labels and one more, which has to be of their type."""
    if _row(classes, label) is not None:
        raise InputError(f"there is a class {label!r} already; remove it first, or take another name")
    label = label.item() if isinstance(label, np.generic) else label
    if classes.dtype.kind == "O":
        return np.append(classes, np.array([label], dtype=object))
    expected = type(classes.tolist()[0])
    try:
        if type(label) is not expected:
            raise OverflowError
        return np.append(classes, np.array([label], dtype=None if expected is str else classes.dtype))
    except OverflowError as error:
        raise InputError(
            f"label {str(label)[:40]!r}; the others are {classes.dtype.name}, expected one like them"
        ) from error


def _read_text(classifier: FewShotClassifier, embedding: Tensor, text: Any) -> Tensor:
    """The new class's texts, unit (P, d); the mean of its samples' embedding (m, d) where there are no texts."""
    if classifier.text is None:
        if text is not None:
            raise InputError("text was given, but the classifier was fitted without texts; leave it out, or fit again")
        return unit(embedding.mean(dim=0, keepdim=True))
    if text is None:
        raise InputError("the classifier was fitted with texts; expected text, the (d,) embedding of the new class's")
    d = classifier.text_.shape[1]
    texts = as_tensor(text)
    if texts.ndim not in (1, 2) or texts.shape[-1] != d or not texts.numel() or not torch.isfinite(texts).all():
        raise InputError(f"text has shape {tuple(texts.shape)}; expected ({d},) or (P, {d}), finite")
    return unit(texts.detach().to(classifier.text_).reshape(-1, d))


def _append(texts: Tensor, new: Tensor) -> Tensor:
    """texts (N, P, d) and those of one more class (Q, d) -> (N + 1, max(P, Q), d), padded by rows of zeros."""
    most = max(texts.shape[1], len(new))
    return torch.cat([pad(part, (0, 0, 0, most - part.shape[1])) for part in (texts, new[None])])
