"""Multinomial logistic regression on frozen features: the baseline that every user knows.

Radford et al. (CLIP), ICML 2021, section 3.2; solved by scikit-learn's `LogisticRegression` (L-BFGS).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.fewshot.base import Candidates, FewShotClassifier
from crossgraft.fewshot.features import ABSENT_LOGIT, Support, many_classes
from crossgraft.fewshot.registry import register

MAX_ITER = 1000  # of L-BFGS; separable few-shot problems take tens to hundreds


def logistic_head(support: Support, C: float, *, balanced: bool) -> tuple[Tensor, Tensor]:
    """Fit weight (N, f) and bias (N,) of a multinomial logistic regression on the unit keys.

    A class without a sample gets a zero weight and the bias `ABSENT_LOGIT`, the limit of the unpenalised intercept.
    """
    seen = torch.nonzero(support.counts).flatten()
    if len(seen) < 2:
        raise InputError("the support holds one class only; a linear probe needs samples of at least two")
    solver = LogisticRegression(C=C, max_iter=MAX_ITER, class_weight="balanced" if balanced else None)
    with many_classes():
        solver.fit(support.key.cpu().numpy(), support.labels.cpu().numpy())
    coef, intercept = (torch.as_tensor(part).to(support.key) for part in (solver.coef_, solver.intercept_))
    if len(seen) == 2:  # scikit-learn keeps only the difference of two classes
        coef, intercept = torch.cat([-coef, coef]) / 2, torch.cat([-intercept, intercept]) / 2
    weight = support.key.new_zeros(support.n_classes, support.key.shape[1])
    bias = support.key.new_full((support.n_classes,), ABSENT_LOGIT)
    weight[seen], bias[seen] = coef, intercept
    return weight, bias


@register("linear-probe")
class LinearProbe(FewShotClassifier):
    """Logistic regression on the unit keys. Text is not used: a class without a sample is never predicted.

    Parameters:
        C: inverse strength of the L2 penalty, as in scikit-learn. Keys have unit length, so useful values are large.
        balanced: weigh samples so that every class counts the same, however many samples it has.

    Attributes (after `fit`): `weight_` (N, f), `bias_` (N,); `n_parameters_` = N (f + 1).
    """

    paper = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"
    grid: ClassVar[dict[str, tuple[float, ...]]] = {"C": (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)}
    state: ClassVar[dict[str, tuple[str, ...]]] = {"weight_": ("N", "f"), "bias_": ("N",)}

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        C: float = 10.0,
        balanced: bool = True,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.C = C
        self.balanced = balanced

    def _fit(self, support: Support) -> int:
        self.weight_, self.bias_ = logistic_head(support, self.C, balanced=self.balanced)
        return self.weight_.numel() + self.bias_.numel()

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        return key @ self.weight_.T + self.bias_

    def _candidates(self) -> Iterator[Candidates]:
        for C in self.grid["C"]:
            weight, bias = logistic_head(self._support, C, balanced=self.balanced)

            def score(embedding: Tensor, key: Tensor, w: Tensor = weight, b: Tensor = bias) -> Iterator[Tensor]:
                yield key @ w.T + b

            yield Candidates([{"C": C}], score, {"weight_": weight, "bias_": bias})
