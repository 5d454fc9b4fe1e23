"""auto: XMAdapter, unless held-out support photos show that another method is better.

Our own rule, in the spirit of stacked and cross-validated model choice (Wolpert, 1992), with two precautions that few
photos need: one photo of every class is held out at a time, and a challenger has to win by more than chance allows.
Averaging the methods' probabilities gained nothing over the best of them (docs/xmadapter.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.fewshot.base import Candidates, FewShotClassifier
from crossgraft.fewshot.calibration import fit_temperature
from crossgraft.fewshot.evidence import Cache
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.holdout import one_of_every_class
from crossgraft.fewshot.linear_form import linear_form
from crossgraft.fewshot.registry import get_method, register
from crossgraft.fewshot.xmadapter import XMAdapter

CHALLENGERS = ("linear-probe", "gda", "timo", "lp++")
"""Linear heads with other assumptions than XMAdapter's; fast, and of one form: weights and biases."""

SURE = 2.0
"""Standard errors of the paired difference by which a challenger has to win."""


@register("auto")
class Auto(XMAdapter):
    """XMAdapter, or a linear head on [embedding | key] if that names more held-out support photos right.

    With one photo a class nothing can be held out, and it is XMAdapter; so it is with photos of one class only.
    Parameters are XMAdapter's.

    Attributes (after `fit`): XMAdapter's, and `weight_` (L, w), `bias_` (L,), the chosen linear head: L = N, or 0 where
        XMAdapter was chosen. w = p, the features' size.
    """

    paper = "Own rule: " + XMAdapter.paper.removeprefix("After: ") + "; or the linear head that held-out photos prefer"
    state: ClassVar[dict[str, tuple[str, ...]]] = XMAdapter.state | {"weight_": ("L", "w"), "bias_": ("L",)}

    def _fit(self, support: Support) -> int:
        XMAdapter._fit(self, support)
        self.weight_, self.bias_ = self._no_head()
        folds = one_of_every_class(support)
        if not folds or not _has_two_classes(support):
            return 0
        labels = torch.cat([held_out.labels for _, held_out in folds])
        own = torch.cat([self._own_logits(rest, held_out) for rest, held_out in folds]).argmax(dim=1) == labels
        best: tuple[float, str, Tensor] | None = None
        for name in CHALLENGERS:
            logits = torch.cat([_scores(self._head(name, rest), held_out) for rest, held_out in folds])
            gain = ((logits.argmax(dim=1) == labels).long() - own.long()).cpu().double()  # MPS has no float64
            margin = gain.mean().item() - SURE * gain.std().item() / len(gain) ** 0.5
            if margin > 0 and (best is None or margin > best[0]):
                best = (margin, name, logits)
        if best is None:
            return 0
        _, name, logits = best
        t = fit_temperature(logits.cpu().double(), labels.cpu(), support.counts.cpu() > 0)
        head = self._head(name, support)
        self.weight_, self.bias_ = (t * part for part in _linear(head))
        return head.n_parameters_

    def _own_logits(self, rest: Support, held_out: Support) -> Tensor:
        """XMAdapter's logits (n, N) of held-out samples, with the setting that the whole support chose."""
        twin = copy.copy(self)
        twin._set(rest, self._setting, self.temperature_.item())
        return XMAdapter._logits(twin, held_out.embedding, held_out.key)

    def _head(self, name: str, support: Support) -> FewShotClassifier:
        """A challenger fitted to (a part of) the support."""
        head = get_method(name)(text=self.text, logit_scale=self.logit_scale)
        head.classes_, head.n_features_in_ = self.classes_, self.n_features_in_
        head._learn(support)
        return head

    def _no_head(self) -> tuple[Tensor, Tensor]:
        return self.keys_.new_zeros(0, self.n_features_in_), self.keys_.new_zeros(0)

    def _joined(self, embedding: Tensor, key: Tensor) -> Tensor:
        """[embedding | key] (n, p), or the embedding alone where it is its own key."""
        return embedding if self.n_features_in_ == embedding.shape[1] else torch.cat([embedding, key], dim=1)

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        if len(self.weight_):
            return self._joined(embedding, key) @ self.weight_.T + self.bias_
        return XMAdapter._logits(self, embedding, key)

    def _cache(self, embedding: Tensor, key: Tensor) -> Cache:
        """Of a linear head: what the image feature adds; its support photos are named by affinity, and add nothing."""
        cache = XMAdapter._cache(self, embedding, key)
        if not len(self.weight_):
            return cache
        d = embedding.shape[1] if self.n_features_in_ > embedding.shape[1] else 0
        image = key @ self.weight_[:, d:].T + self.bias_
        return Cache(image, cache.weights, self.labels_, lambda _: torch.zeros_like(cache.weights))

    def _candidates(self) -> Iterator[Candidates]:
        bare = copy.copy(self)
        bare.weight_, bare.bias_ = self._no_head()
        yield from XMAdapter._candidates(bare)
        for name in CHALLENGERS if _has_two_classes(self._support) else ():
            weight, bias = _linear(self._head(name, self._support))

            def score(embedding: Tensor, key: Tensor, w: Tensor = weight, b: Tensor = bias) -> Iterator[Tensor]:
                yield self._joined(embedding, key) @ w.T + b

            yield Candidates([{}], score, {"weight_": weight, "bias_": bias})

    def _with_class(self, texts: Tensor, embedding: Tensor, key: Tensor) -> dict[str, Any]:
        self._refuse_if_linear()
        return XMAdapter._with_class(self, texts, embedding, key)

    def _without_class(self, row: int) -> dict[str, Any]:
        self._refuse_if_linear()
        return XMAdapter._without_class(self, row)

    def _refuse_if_linear(self) -> None:
        if len(self.weight_):
            raise InputError("auto chose a linear head, whose classes cannot be edited; fit again")


def _has_two_classes(support: Support) -> bool:
    """Whether samples are of two classes or more, which linear heads need; the others may be known by their texts."""
    return int((support.counts > 0).sum()) > 1


def _scores(head: FewShotClassifier, queries: Support) -> Tensor:
    return head._logits(queries.embedding, queries.key)


def _linear(head: FewShotClassifier) -> tuple[Tensor, Tensor]:
    """The head's weights (N, p) and biases (N,)."""
    form = linear_form(head)
    assert form is not None, f"{head.method} is not linear"
    weight, bias = (part.to(head.text_) for part in form)
    return weight, bias
