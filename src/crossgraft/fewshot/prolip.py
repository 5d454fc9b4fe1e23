"""ProLIP: only the last projection of the image tower is tuned, and held to what it was.

Fahes et al., "CLIP's Visual Embedding Projector is a Few-shot Cornucopia" (ProLIP), arXiv 2410.05270.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.fewshot.base import Candidates, FewShotClassifier
from crossgraft.fewshot.features import Support, unit
from crossgraft.fewshot.proker import CLIP_LOGIT_SCALE
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.training import seeded, train


@register("prolip")
class ProLIP(FewShotClassifier):
    """Logits s unit(f + c x D^T) W^T; D (d, f) is trained from zero by cross-entropy + lam / K^2 ||D||^2.

    The paper tunes the projection V of CLIP's image feature x into the text space, from V_0, with the penalty
    ||V - V_0||^2. As V x = V_0 x + (V - V_0) x, and f is V_0 x, this is the same with D = V - V_0, and it also serves
    encoders whose way into the text space is no matrix. Estimators see f and x at unit length, so it is the same up to
    the ratio of the two lengths. c = 100 / s, so that D moves any encoder's logits as far as it moves CLIP's, where
    c = 1; without it the penalty and the learning rate, which are CLIP's, hold a cooler encoder to its zero-shot
    classifier.

    K is the mean number of samples of the classes that have any. Trained by `training.train` on the whole support at
    each step; the final step is the model.

    Parameters:
        lam: strength of the penalty; 1 as published (lam = 1 / K^2 there).
        epochs, lr: see `training.train`; an epoch is one step.

    Attributes (after `fit`): `delta_` (d, f) = c D; `n_parameters_` = d f.
    """

    paper = "Fahes et al., CLIP's Visual Embedding Projector is a Few-shot Cornucopia (ProLIP), arXiv 2410.05270"
    grid: ClassVar[dict[str, tuple[float, ...]]] = {"lam": (0.01, 0.1, 1.0, 10.0)}
    state: ClassVar[dict[str, tuple[str, ...]]] = {"delta_": ("d", "f")}

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        lam: float = 1.0,
        epochs: int = 300,
        lr: float = 1e-3,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.lam = lam
        self.epochs = epochs
        self.lr = lr

    def _fit(self, support: Support) -> int:
        self.delta_ = self._trained(support, self.lam)
        return self.delta_.numel()

    def _trained(self, support: Support, lam: float) -> Tensor:
        m, gain = len(support.labels), CLIP_LOGIT_SCALE / self.logit_scale
        shots = m / (support.counts > 0).sum().item()
        delta = support.key.new_zeros(support.text.shape[1], support.key.shape[1]).requires_grad_()

        def loss(batch: Tensor) -> Tensor:
            logits = self._scores(support.embedding, support.key, gain * delta)
            return functional.cross_entropy(logits, support.labels) + lam / shots**2 * delta.square().sum()

        with torch.enable_grad():
            train([delta], loss, m, epochs=self.epochs, lr=self.lr, batch_size=m, generator=seeded(0))
        return gain * delta.detach()

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        return self._scores(embedding, key, self.delta_)

    def _scores(self, embedding: Tensor, key: Tensor, delta: Tensor) -> Tensor:
        return self.logit_scale * (unit(embedding + key @ delta.T) @ self.text_.T)

    def _candidates(self) -> Iterator[Candidates]:
        for lam in self.grid["lam"]:
            delta = self._trained(self._support, lam)

            def score(embedding: Tensor, key: Tensor, d: Tensor = delta) -> Iterator[Tensor]:
                yield self._scores(embedding, key, d)

            yield Candidates([{"lam": lam}], score, {"delta_": delta})
