"""auto: XMAdapter, unless held-out support photos show that another method is better.

Our own rule, in the spirit of stacked and cross-validated model choice (Wolpert, 1992), with two precautions that few
photos need: one photo of every class is held out at a time, and a challenger has to win by more than chance allows.
Averaging the methods' probabilities gained nothing over the best of them (docs/xmadapter.md).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
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
from crossgraft.fewshot.prototypes import joint
from crossgraft.fewshot.registry import get_method, register
from crossgraft.fewshot.xmadapter import LEARNED, XMAdapter

CHALLENGERS = ("linear-probe", "gda", "timo", "lp++")
"""Linear heads with other assumptions than XMAdapter's; fast, and of one form: weights and biases."""

SURE = 2.5
"""Standard errors of the paired difference by which a challenger has to win: 1 in 40 by chance, for four of them."""


@register("auto")
class Auto(XMAdapter):
    """XMAdapter, or a linear head on [embedding | key] if that names more held-out support photos right.

    With one photo a class nothing can be held out, and it is XMAdapter; so it is with photos of one class only.

    Parameters (beside XMAdapter's):
        head: "learned" from held-out support photos, "xmadapter", or the name of a challenger.

    Attributes (after `fit`): XMAdapter's, and `weight_` (L, w), `bias_` (L,), the chosen linear head: L = N, or 0 where
        XMAdapter was chosen. w = p, the features' size.
    """

    paper = "Own rule: " + XMAdapter.paper.removeprefix("After: ") + "; or the linear head that held-out photos prefer"
    state: ClassVar[dict[str, tuple[str, ...]]] = XMAdapter.state | {"weight_": ("L", "w"), "bias_": ("L",)}

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        ratio: str | float = LEARNED,
        shrinkage: str | float = LEARNED,
        aligned: str | float = LEARNED,
        beta_t: str | float = LEARNED,
        coupling: str | float = LEARNED,
        beta_i: str | float = LEARNED,
        lam: float = 0.1,
        eta: float = 0.0,
        balanced: bool = True,
        head: str = LEARNED,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(
            text, classes, logit_scale, ratio, shrinkage, aligned, beta_t, coupling, beta_i, lam, eta, balanced, device
        )
        self.head = head

    def check_params(self) -> None:
        super().check_params()
        known = (LEARNED, XMAdapter.method, *CHALLENGERS)
        if self.head not in known:
            raise InputError(f"head={self.head!r}; expected one of {', '.join(known)}")

    def _challengers(self, support: Support) -> tuple[str, ...]:
        """The heads that may be taken; they need photos of two classes or more, the others known by their texts."""
        if self.head == XMAdapter.method or int((support.counts > 0).sum()) < 2:
            return ()
        return CHALLENGERS if self.head == LEARNED else (self.head,)

    def _fit(self, support: Support) -> int:
        XMAdapter._fit(self, support)
        self.weight_, self.bias_ = self.keys_.new_zeros(0, self.n_features_in_), self.keys_.new_zeros(0)
        folds, challengers = one_of_every_class(support), self._challengers(support)
        if not challengers or not folds:
            return self._take(self.head, support, 1.0) if self.head in challengers else 0
        labels = torch.cat([held_out.labels for _, held_out in folds])
        own = torch.cat([self._own_logits(rest, held_out) for rest, held_out in folds]).argmax(dim=1) == labels
        best: tuple[float, str, Tensor] | None = None
        for name in challengers:
            logits = torch.cat([_scores(self._head(name, rest), held_out) for rest, held_out in folds])
            gain = ((logits.argmax(dim=1) == labels).long() - own.long()).cpu().double()  # MPS has no float64
            margin = gain.mean().item() - SURE * gain.std().item() / len(gain) ** 0.5
            if (margin > 0 or self.head == name) and (best is None or margin > best[0]):
                best = (margin, name, logits)
        if best is None:
            return 0
        _, name, logits = best
        t = fit_temperature(logits.cpu().double(), labels.cpu(), folds[0][0].counts.cpu() > 0)
        return self._take(name, support, t)

    def _take(self, name: str, support: Support, t: float) -> int:
        """Take a challenger, its logits times t; return its trained parameter count."""
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
        head.classes_, head.n_features_in_ = self.classes_[: support.n_classes], self.n_features_in_
        head._learn(support)
        return head

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        if len(self.weight_):
            return joint(embedding, key, shared=self._shared) @ self.weight_.T + self.bias_
        return XMAdapter._logits(self, embedding, key)

    def _cache(self, embedding: Tensor, key: Tensor) -> Cache:
        """Of a linear head: what the image feature adds; its support photos are named by affinity, and add nothing."""
        cache = XMAdapter._cache(self, embedding, key)
        if not len(self.weight_):
            return cache
        d = 0 if self._shared else embedding.shape[1]
        image = key @ self.weight_[:, d:].T + self.bias_
        return Cache(image, cache.weights, self.labels_, lambda _: torch.zeros_like(cache.weights))

    def _candidates(self) -> Iterator[Candidates]:
        if self.head in (LEARNED, XMAdapter.method):
            for group in XMAdapter._candidates(self):
                yield Candidates([{**one, "head": XMAdapter.method} for one in group.params], group.score)
        for name in self._challengers(self._support):
            weight, bias = _linear(self._head(name, self._support))

            def score(embedding: Tensor, key: Tensor, w: Tensor = weight, b: Tensor = bias) -> Iterator[Tensor]:
                yield joint(embedding, key, shared=self._shared) @ w.T + b

            yield Candidates([{"head": name}], score)

    def _with_class(self, texts: Tensor, embedding: Tensor, key: Tensor) -> dict[str, Any]:
        self._refuse_if_linear()
        return XMAdapter._with_class(self, texts, embedding, key)

    def _without_class(self, row: int) -> dict[str, Any]:
        self._refuse_if_linear()
        return XMAdapter._without_class(self, row)

    def _refuse_if_linear(self) -> None:
        if len(self.weight_):
            raise InputError("auto chose a linear head, whose classes cannot be edited; fit again")


def _scores(head: FewShotClassifier, queries: Support) -> Tensor:
    return head._logits(queries.embedding, queries.key)


def _linear(head: FewShotClassifier) -> tuple[Tensor, Tensor]:
    """The head's weights (N, p) and biases (N,)."""
    form = linear_form(head)
    assert form is not None, f"{head.method} is not linear"
    weight, bias = (part.to(head.text_) for part in form)
    return weight, bias
