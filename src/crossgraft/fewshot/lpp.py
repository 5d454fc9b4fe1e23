"""LP++: a linear probe on image features and a learned weight of the text for each class, without a learning rate.

Huang et al., "LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP", CVPR 2024 (arXiv 2404.02285).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.errors import CrossgraftError
from crossgraft.fewshot.base import Candidates, FewShotClassifier
from crossgraft.fewshot.features import Support, class_means
from crossgraft.fewshot.registry import register

MOMENTUM = 0.9
BLEND_EVERY = 10  # steps of the image weights to one of the texts' weights


def step_sizes(x: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Steps from bounds on the loss's curvature, for features x (M, r) and cosines with the class texts (M, N).

    4 M / largest eigenvalue of x^T x for the image weights, and M / (4 max_c sum_i cosine_ic^2) for the text weights
    (the released code's constants).
    """
    m, tiny = len(x), torch.finfo(x.dtype).eps
    curvature = torch.linalg.matrix_norm(x, ord=2).square()
    return 4 * m / curvature.clamp(min=tiny), m / (4 * cosines.square().sum(dim=0).max()).clamp(min=tiny)


@register("lp++")
class LPPlusPlus(FewShotClassifier):
    """Logits x w_c + alpha_c (f t_c): image weights w (N, f) on the key x, text weights alpha (N,) on the embedding f.

    Both minimise the cross-entropy of the support, by full-batch descent whose step sizes come from the data
    (`step_sizes`): w with momentum 0.9, alpha at every tenth step. w starts at the class means times the mean count
    (with equally many samples the class sums, as published). The final step is the model; the paper's code takes the
    best of all steps on validation photos.

    The image part lives on the key, where images say most; with the embedding as its own key this is the published
    model. alpha_c starts at `alpha` times the logit scale. Published is 250 times the mean cosine of the support with
    its own texts, which for CLIP is about half its scale of 100; other encoders' cosines lie elsewhere.

    Parameters:
        alpha: initial weight of the texts, in units of the logit scale.
        epochs: number of steps, each over the whole support.

    Attributes (after `fit`): `weight_` (N, f), `alpha_` (N,); `n_parameters_` = N (f + 1).
    """

    paper = "Huang et al., LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP, CVPR 2024"
    grid: ClassVar[dict[str, tuple[float, ...]]] = {"alpha": (0.1, 0.25, 0.5, 1.0, 2.0)}
    state: ClassVar[dict[str, tuple[str, ...]]] = {"weight_": ("N", "f"), "alpha_": ("N",)}

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        alpha: float = 0.5,
        epochs: int = 300,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.alpha = alpha
        self.epochs = epochs

    def _fit(self, support: Support) -> int:
        self.weight_, self.alpha_ = self._solve(support, self.alpha)
        return self.weight_.numel() + self.alpha_.numel()

    def _solve(self, support: Support, alpha: float) -> tuple[Tensor, Tensor]:
        """w (N, f) and alpha (N,)."""
        key, labels, m = support.key, support.labels, len(support.labels)
        seen = (support.counts > 0).sum()
        weight = class_means(key, labels, support.n_classes) * (m / seen)
        # w never leaves the span of the samples, and descent does not care how that is turned: with fewer samples than
        # features, an orthonormal basis of the span gives the same steps on narrower matrices.
        basis, x = None, key
        if m < key.shape[1]:
            basis, triangle = torch.linalg.qr(key.T)
            weight, x = weight @ basis, triangle.T
        cosines = support.embedding @ support.text.T
        blend = torch.full_like(cosines[0], alpha * self.logit_scale)
        step, blend_step = step_sizes(x, cosines)
        target, velocity = functional.one_hot(labels, support.n_classes).to(x), torch.zeros_like(weight)
        with torch.no_grad():
            for i in range(1, self.epochs + 1):
                error = ((x @ weight.T + blend * cosines).softmax(dim=1) - target) / m
                velocity = MOMENTUM * velocity + error.T @ x
                weight = weight - step * velocity
                if i % BLEND_EVERY == 0:
                    blend = blend - blend_step * (error * cosines).sum(dim=0)
        if not torch.isfinite(weight).all():
            raise CrossgraftError("training diverged; lower alpha or logit_scale")
        return weight if basis is None else weight @ basis.T, blend

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        return self._scores(embedding, key, self.weight_, self.alpha_)

    def _scores(self, embedding: Tensor, key: Tensor, weight: Tensor, alpha: Tensor) -> Tensor:
        return key @ weight.T + alpha * (embedding @ self.text_.T)

    def _candidates(self) -> Iterator[Candidates]:
        for value in self.grid["alpha"]:
            weight, alpha = self._solve(self._support, value)

            def score(embedding: Tensor, key: Tensor, w: Tensor = weight, a: Tensor = alpha) -> Iterator[Tensor]:
                yield self._scores(embedding, key, w, a)

            yield Candidates([{"alpha": value}], score, {"weight_": weight, "alpha_": alpha})
