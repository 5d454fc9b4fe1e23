"""Gaussian discriminant analysis beside the zero-shot classifier, in closed form.

Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR 2024 (arXiv 2402.04087).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from crossgraft.fewshot.base import Candidates, FewShotClassifier
from crossgraft.fewshot.features import Support, class_means
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.zero_shot import zero_shot_logits


def deviations(key: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Deviation of each key (M, f) from its class mean; of a class's only sample from the mean of all keys.

    A class with one sample has no scatter of its own, so the total scatter stands in: wholly at one shot, not at all
    where every class has two samples or more (the published rule).
    """
    single = torch.bincount(labels, minlength=len(means))[labels] == 1
    return key - torch.where(single[:, None], key.mean(dim=0), means[labels])


def precision_times(centred: Tensor, vectors: Tensor) -> Tensor:
    """vectors (N, f) times inv = f ((M - 1) S + tr(S) I)^-1, with (M - 1) S = C^T C of the centred samples C (M, f).

    Solved in whichever of sample space (Woodbury) and feature space is smaller.
    """
    m, f = centred.shape
    ridge = centred.square().sum() / max(m - 1, 1)
    if not ridge > 0:  # identical samples say nothing about the scatter
        return f * vectors
    if m < f:
        gram = centred @ centred.T
        gram.diagonal().add_(ridge)
        inner = torch.linalg.solve(gram, centred @ vectors.T)  # (M, N)
        return f * (vectors - (centred.T @ inner).T) / ridge
    scatter = centred.T @ centred
    scatter.diagonal().add_(ridge)
    return f * torch.linalg.solve(scatter, vectors.T).T


@register("gda")
class GDA(FewShotClassifier):
    """Logits s f W^T + alpha (key w + b), Gaussians with one shared covariance: w = mu inv, b = -mu inv mu / 2.

    The prior is uniform. A class without a sample takes the mean of the other classes' means as its own: it is
    decided by its text.

    Parameters:
        alpha: weight of the image classifier beside the zero-shot logits.

    Attributes (after `fit`): `weight_` (N, f), `bias_` (N,).
    """

    paper = "Wang et al., A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation, ICLR 2024"
    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "alpha": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
    }
    state: ClassVar[dict[str, tuple[str, ...]]] = {"weight_": ("N", "f"), "bias_": ("N",)}

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        alpha: float = 0.15,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.alpha = alpha

    def _fit(self, support: Support) -> int:
        seen = support.counts > 0
        means = class_means(support.key, support.labels, support.n_classes)
        means = torch.where(seen[:, None], means, means[seen].mean(dim=0))
        self.weight_ = precision_times(deviations(support.key, support.labels, means), means)
        self.bias_ = -0.5 * (self.weight_ * means).sum(dim=1)
        return 0

    def _image_logits(self, key: Tensor) -> Tensor:
        return key @ self.weight_.T + self.bias_

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        if key is embedding:  # one head on one feature, in one product
            weight = self.logit_scale * self.text_ + self.alpha * self.weight_
            return torch.addmm(self.alpha * self.bias_, key, weight.T)
        return zero_shot_logits(embedding, self.text_, self.logit_scale) + self.alpha * self._image_logits(key)

    def _candidates(self) -> Iterator[Candidates]:
        def score(embedding: Tensor, key: Tensor) -> Iterator[Tensor]:
            text_logits = zero_shot_logits(embedding, self.text_, self.logit_scale)
            image_logits = self._image_logits(key)
            for alpha in self.grid["alpha"]:
                yield text_logits + alpha * image_logits

        yield Candidates([{"alpha": alpha} for alpha in self.grid["alpha"]], score)
