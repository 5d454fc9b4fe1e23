"""What all few-shot classifiers share: the scikit-learn surface over one method, `_logits`, that each solver writes.

Conventions. X (n, p) holds [embedding | key] side by side: with `text` (N, d) given, the first d columns are the
text-aligned image embedding and the rest is the un-projected image feature, used as cache key; if p = d the embedding
is its own key. Without `text` all of X is both, and the class means of the support stand in for the text embeddings,
so that every method also runs on plain features. Both parts are scaled to unit length inside. The support settles where
and in which precision everything runs: float64 features in float64, any other float type in float32.
"""

from __future__ import annotations

import inspect
import numbers
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional

from crossgraft.errors import InputError
from crossgraft.fewshot.calibration import Calibration, calibrate
from crossgraft.fewshot.classes import add_class, drop_class, remove_class
from crossgraft.fewshot.features import Support, blocks, class_means, many_classes, mean_text, read_features, unit
from crossgraft.fewshot.inputs import (
    encode_labels,
    read_classes,
    read_texts,
    refuse_empty,
    refuse_sealed,
    split_features,
)
from crossgraft.fewshot.threads import threads_for


@dataclass(frozen=True)
class Candidates:
    """Hyperparameter settings that one fitted state can score.

    Attributes:
        params: the settings.
        score: takes unit (embedding (n, d), key (n, f)) and yields logits (n, N), one for each of `params` in turn.
        state: learned attributes that the classifier takes over if one of `params` wins.
    """

    params: Sequence[dict[str, Any]]
    score: Callable[[Tensor, Tensor], Iterator[Tensor]]
    state: dict[str, Tensor] = field(default_factory=dict)


# What a hyperparameter of this name may be, in every method that has it. No use has been found beyond these.
_AT_LEAST = {"alpha": 0, "beta": 0, "beta_i": 0, "beta_t": 0, "eta": 0, "epochs": 0, "batch_size": 1, "reduction": 1}
_ABOVE_ZERO = {"C", "lam", "lr", "logit_scale"}


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """A classifier learned from a few examples on frozen features. Subclasses write `_fit` and `_logits`.

    Parameters (of every subclass):
        text: (N, d) class text embeddings; or (N, P, d), up to P texts a class, rows of zeros where a class has fewer
            (`Prompts.encode_each`); or None (see the module's conventions).
        classes: labels in the order of the rows of `text`; None takes the sorted labels of y. Classes without a sample
            are allowed where `text` is given.
        logit_scale: s; zero-shot logits are s * cosine(image, text).
        device: where to compute; None is where a tensor X lives, else the CPU.

    Attributes (after `fit`; tensors end in `_` and are what `save_classifier` writes):
        classes_: (N,) labels, in the column order of all outputs.
        n_features_in_: p.
        n_parameters_: number of trained parameters; 0 for a method in closed form.
        text_: (N, d) unit class text embeddings.
        calibration_: what `calibrate` found, or None.
    """

    method: ClassVar[str]  # set by `register`
    paper: ClassVar[str]
    grid: ClassVar[dict[str, tuple[float, ...]]] = {}
    # The tensors that `_fit` sets, with their shapes: N classes, M support samples, f key size, d embedding size, and
    # letters of a method's own. They are all that a saved classifier holds, and what loading checks.
    state: ClassVar[dict[str, tuple[str, ...]]] = {}
    calibration_: Calibration | None = None

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        device: str | torch.device | None = None,
    ) -> None:
        self.text = text
        self.classes = classes
        self.logit_scale = logit_scale
        self.device = device

    # -- what a method writes -----------------------------------------------------------------------------------------

    @abstractmethod
    def _fit(self, support: Support) -> int:
        """Learn from the support; set state as tensor attributes ending in `_`; return the trained parameter count."""

    @abstractmethod
    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        """Unit embedding (n, d) and key (n, f) -> logits (n, N)."""

    def _candidates(self) -> Iterator[Candidates]:
        """The settings of `grid`, grouped by the fitted state that scores them."""
        yield from ()

    @property
    def _shared(self) -> bool:
        """Whether the embedding is its own key."""
        return bool(self.n_features_in_ == self.text_.shape[1])

    # -- scikit-learn's surface ---------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from X (M, p) and labels y (M,).

        Raises:
            InputError: bad features or labels, a label outside `classes`, one class only, sealed test labels.
        """
        refuse_sealed(y)
        self.check_params()
        features, y = read_features(self, X, y, reset=True)
        try:
            with many_classes():
                check_classification_targets(y)
        except ValueError as error:
            raise InputError(str(error)) from error
        assert y is not None
        device = torch.device(self.device) if self.device is not None else features.device
        if device.type == "mps":  # it has no float64
            features = features.float()
        features = features.to(device)
        texts = None if self.text is None else read_texts(self.text, features)
        self.classes_ = read_classes(self.classes, y, texts)
        labels = encode_labels(y, self.classes_).to(device)
        embedding, key = split_features(features, features.shape[1] if texts is None else texts.shape[2])
        if texts is None:
            refuse_empty(labels, self.classes_)
            texts = unit(class_means(embedding, labels, len(self.classes_)))[:, None]
        self._learn(Support(embedding, key, labels, mean_text(texts), texts))
        return self

    def _learn(self, support: Support) -> None:
        """Fit to a support; an earlier calibration no longer holds."""
        self.text_, self.calibration_ = support.text, None
        self._support = support  # for `tune` and `calibrate`, which may need a new solve; never saved
        with torch.enable_grad(), threads_for(support.key):
            self.n_parameters_ = self._fit(support)
        for name in self.state:
            # A saved tensor comes back contiguous, and the layout shows in the last bit of a product.
            setattr(self, name, getattr(self, name).contiguous())

    @torch.no_grad()
    def logits(self, X: Any) -> Tensor:
        """X (n, p) -> logits (n, N), on the device and in the precision of the fitted state."""
        features = self._read(X)
        out = self.text_.new_empty(len(features), len(self.text_))
        for cut in self._blocks(len(features)):
            out[cut] = self._logits(*split_features(features[cut], self.text_.shape[1]))
        return out

    def decision_function(self, X: Any) -> np.ndarray:
        """X (n, p) -> logits (n, N); for two classes (n,), the second logit less the first."""
        logits = self.logits(X).cpu().numpy()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """X (n, p) -> softmax of the logits (n, N), which `calibrate` scales."""
        return self.probabilities(self.logits(X)).cpu().numpy()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (n, N) -> probabilities (n, N): the softmax, of t * logits if `calibrate` has found a t."""
        if self.calibration_ is not None:
            logits = self.calibration_.temperature * logits
        return functional.softmax(logits, dim=1)

    @torch.no_grad()
    def predict(self, X: Any) -> np.ndarray:
        """X (n, p) -> the labels (n,) of the largest logits."""
        features = self._read(X)
        decide = self._decider(len(features))
        rows = [decide(features[cut]) for cut in blocks(len(features), features.shape[1])]
        return self.classes_[torch.cat(rows).cpu().numpy()]

    def _decider(self, n: int) -> Callable[[Tensor], Tensor]:
        """For n queries, in large blocks: features (b, p) -> the row (b,) of each largest logit.

        A method that finds it without all the logits overrides this.
        """

        def decide(features: Tensor) -> Tensor:
            queries = (split_features(features[cut], self.text_.shape[1]) for cut in self._blocks(len(features)))
            return torch.cat([self._logits(embedding, key).argmax(dim=1) for embedding, key in queries])

        return decide

    @torch.no_grad()
    def tune(self, X_val: Any, y_val: Any) -> Self:
        """Set the hyperparameters of `grid` by accuracy on validation samples (ties: lower cross-entropy), in place.

        Call it after `fit`, in the same process. Only what the settings touch is scored, solved or (`TrainedCache`)
        trained again. A method without a grid returns unchanged.

        Raises:
            InputError: bad features or labels, sealed test labels, or a classifier that was loaded and not fitted here.
        """
        refuse_sealed(y_val)
        check_is_fitted(self, "text_")
        if not hasattr(self, "_support"):
            raise InputError("tune needs the support, which is not saved: call fit first, in this process")
        embedding, key = self._queries(X_val, y_val)
        labels = encode_labels(np.asarray(y_val.cpu() if isinstance(y_val, Tensor) else y_val).ravel(), self.classes_)
        labels = labels.to(key.device)
        self.calibration_ = None
        with threads_for(self._support.key):
            self._search(embedding, key, labels)
        return self

    def calibrate(self) -> Self:
        """Scale `predict_proba` to what the support says (`calibration`), in place; predictions stay.

        Call it after `fit` and `tune`, in the same process. It fits up to nine classifiers to parts of the support,
        four where the method trains.

        Raises:
            InputError: a classifier that was loaded and not fitted here.
        """
        check_is_fitted(self, "text_")
        if not hasattr(self, "_support"):
            raise InputError("calibrate needs the support, which is not saved: call fit first, in this process")
        self.calibration_ = calibrate(self, self._support)
        return self

    def threshold(self, accuracy: float) -> float:
        """The probability from which on predictions are at least so accurate (0 to 1), with 90 % confidence.

        It holds for photos like the support: about equally many of each class, and none of an unknown class.

        Raises:
            InputError: not calibrated; or the support cannot show that accuracy, and the message says what it can.
        """
        check_is_fitted(self, "text_")
        if self.calibration_ is None:
            raise InputError(
                "a reject threshold needs a calibrated classifier: call calibrate after fit, before saving"
            )
        return self.calibration_.threshold(accuracy)

    def predict_or_reject(self, X: Any, accuracy: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """X (n, p) -> the labels (n,) that `predict` gives, and which of them (n,) bool reach `threshold(accuracy)`."""
        threshold = self.threshold(accuracy)
        probability, rows = self.probabilities(self.logits(X)).max(dim=1)
        return self.classes_[rows.cpu().numpy()], (probability >= threshold).cpu().numpy()

    # -- one class more or less ---------------------------------------------------------------------------------------

    def add_class(self, X: Any, label: Any, text: Any = None) -> Self:
        """Learn one more class from its samples X (m, p), in place, without the samples of the others.

        It comes last in `classes_`. Equal to fitting all classes together. The scale of `calibrate` stays as it is, its
        threshold is dropped.

        Args:
            text: (d,) or (P, d) embeddings of the class's texts, where the classifier was fitted with texts.

        Raises:
            InputError: a method that cannot; bad features or text; a label that is there, or of another type.
        """
        check_is_fitted(self, "text_")
        add_class(self, *self._queries(X), label, text)
        return self

    def remove_class(self, label: Any) -> Self:
        """Forget a class, in place; what is said of the others stays or becomes as if it had never been there.

        Raises:
            InputError: a method that cannot; no such class; or one class only would be left.
        """
        check_is_fitted(self, "text_")
        remove_class(self, label)
        return self

    def _with_class(self, texts: Tensor, embedding: Tensor, key: Tensor) -> dict[str, Any]:
        """The attributes that change with one more class, the last: its samples' unit embedding (m, d), key (m, f).

        texts (P, d) are its unit text embeddings.
        """
        raise InputError(
            f"{self.method} cannot take one more class on its own; fit again, with the photos of all classes"
        )

    def _without_class(self, row: int) -> dict[str, Any]:
        """The attributes that change with the class gone that is in this row.

        Here for heads that score each class by itself: the class's row goes, and the other logits stay.
        """
        if any("M" in symbols for symbols in self.state.values()):
            raise InputError(f"{self.method} cannot lose a class; fit again, with the photos of the others")
        return drop_class(self, row)

    # -- shared parts -------------------------------------------------------------------------------------------------

    def _search(self, embedding: Tensor, key: Tensor, labels: Tensor) -> None:
        """Take the best of `_candidates` on unit embedding (n, d), key (n, f) and labels (n,), rows of `classes_`."""
        best: tuple[float, float] | None = None
        for group in self._candidates():
            correct = torch.zeros(len(group.params), dtype=torch.float64)
            entropy = torch.zeros(len(group.params), dtype=torch.float64)
            for cut in self._blocks(len(key)):
                for j, logits in enumerate(group.score(embedding[cut], key[cut])):
                    correct[j] += (logits.argmax(dim=1) == labels[cut]).sum().item()
                    entropy[j] += functional.cross_entropy(logits, labels[cut], reduction="sum").item()
            for j, params in enumerate(group.params):
                score = (correct[j].item(), -entropy[j].item())
                if best is None or score > best:
                    best, chosen, state = score, params, group.state
        if best is not None:
            self.set_params(**chosen)
            for name, value in state.items():
                setattr(self, name, value.contiguous())

    def check_params(self) -> None:
        """Raise InputError for a hyperparameter that is of the wrong kind, or out of its range."""
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value: Any = getattr(self, name)
            default = parameter.default
            if isinstance(default, bool) and not isinstance(value, bool | np.bool_):
                raise InputError(f"{name}={str(value)[:40]!r}; expected true or false")
            if name == "random_state" or isinstance(default, bool) or not isinstance(default, int | float):
                continue
            whole = isinstance(default, int)
            right = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
            # Compared with the largest float, because a whole number can be too large to become one.
            if not right or not -sys.float_info.max <= value <= sys.float_info.max:
                raise InputError(f"{name}={str(value)[:40]!r}; expected a {'whole' if whole else 'finite'} number")
            if name in _AT_LEAST and value < _AT_LEAST[name]:
                raise InputError(f"{name}={value}; expected at least {_AT_LEAST[name]}")
            if name in _ABOVE_ZERO and value <= 0:
                raise InputError(f"{name}={value}; expected more than 0")

    def _queries(self, X: Any, y: Any = "no_validation") -> tuple[Tensor, Tensor]:
        """Read X as unit (embedding (n, d), key (n, f)) where the fitted state lives, in its precision."""
        return split_features(self._read(X, y), self.text_.shape[1])

    def _read(self, X: Any, y: Any = "no_validation") -> Tensor:
        """Read X (n, p) where the fitted state lives, in its precision."""
        check_is_fitted(self, "text_")
        features, _ = read_features(self, X, y, reset=False)
        return features.to(self.text_.device, self.text_.dtype)

    def _blocks(self, n: int) -> Iterator[slice]:
        width = max(len(self.text_), *(len(getattr(self, name)) for name, of in self.state.items() if of), 1)
        return blocks(n, width, in_cache=True)
