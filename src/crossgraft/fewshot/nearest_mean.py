"""Nearest class mean by cosine, the simplest image-only baseline.

Mensink et al., "Distance-Based Image Classification: Generalizing to New Classes at Near-Zero Cost", TPAMI 2013; on
unit vectors as in Snell et al., "Prototypical Networks for Few-shot Learning", NeurIPS 2017 (arXiv 1703.05175).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.features import ABSENT_LOGIT, Support, class_means, unit
from crossgraft.fewshot.registry import register


@register("nearest-mean")
class NearestMean(FewShotClassifier):
    """Logits s * cosine(key, mean key of the class). Text is not used: a class without a sample is never predicted.

    Attributes (after `fit`): `means_` (N, f) unit class means, `bias_` (N,) zero, or `ABSENT_LOGIT` without a sample.
    """

    paper = "Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017"
    state: ClassVar[dict[str, tuple[str, ...]]] = {"means_": ("N", "f"), "bias_": ("N",)}

    def _fit(self, support: Support) -> int:
        self.means_ = unit(class_means(support.key, support.labels, support.n_classes))
        self.bias_ = torch.where(support.counts > 0, 0.0, ABSENT_LOGIT).to(self.means_)
        return 0

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        return self.logit_scale * (key @ self.means_.T) + self.bias_

    def _with_class(self, texts: Tensor, embedding: Tensor, key: Tensor) -> dict[str, Any]:
        mean = unit(key.mean(dim=0, keepdim=True))
        return {"means_": torch.cat([self.means_, mean]), "bias_": torch.cat([self.bias_, self.bias_.new_zeros(1)])}
