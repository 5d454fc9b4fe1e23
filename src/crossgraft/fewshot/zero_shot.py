"""Zero-shot classification by text alone, the starting point of every other method.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021 (arXiv 2103.00020).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from crossgraft.fewshot.evidence import ExplainableClassifier
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.registry import register


def zero_shot_logits(embedding: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """s f W^T: unit embeddings (n, d), unit texts (N, d) -> (n, N)."""
    return logit_scale * (embedding @ text.T)


@register("zero-shot")
class ZeroShot(ExplainableClassifier):
    """Logits s f W^T. `fit` learns nothing from the samples where `text` is given; it reads the classes."""

    paper = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"

    def _fit(self, support: Support) -> int:
        return 0

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        return zero_shot_logits(embedding, self.text_, self.logit_scale)

    def _with_class(self, texts: Tensor, embedding: Tensor, key: Tensor) -> dict[str, Any]:
        return {}
