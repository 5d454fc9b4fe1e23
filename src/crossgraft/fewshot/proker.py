"""ProKeR: kernel ridge regression of what the zero-shot classifier leaves over, in closed form.

Bendou et al., "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models", CVPR 2025
(arXiv 2501.11175).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.errors import InputError
from crossgraft.fewshot.base import Candidates
from crossgraft.fewshot.cache import affinity, vote_weights
from crossgraft.fewshot.evidence import Cache, ExplainableClassifier
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.zero_shot import zero_shot_logits

# CLIP's logits are 100 times a cosine. Any encoder's logits over 100 lie in the range of CLIP's cosines, where the
# published constants and one-hot targets belong.
CLIP_LOGIT_SCALE = 100.0


def ridge_solve(kernel: Tensor, residual: Tensor, lam: float | Tensor) -> tuple[Tensor, Tensor]:
    """Solve (K + diag(lam)) a = R for kernel K (M, M) and residual R (M, N); lam is a number, or one a sample (M,).

    Returns:
        a (M, N), and the diagonal (M,) of (K + diag(lam))^-1.

    Raises:
        InputError: K + diag(lam) is not positive definite.
    """
    regular = kernel.clone()
    regular.diagonal().add_(lam)
    factor, failed = torch.linalg.cholesky_ex(regular)
    if failed:
        raise InputError("the kernel matrix cannot be inverted; use a larger lam")
    inverse = torch.cholesky_inverse(factor)
    return inverse @ residual, inverse.diagonal()


def leave_one_out(kernel: Tensor, residual: Tensor, lam: float | Tensor) -> Tensor:
    """What each sample's target is off, predicted by all the others: e_i = a_i / inv_ii (M, N); exact."""
    a, diagonal = ridge_solve(kernel, residual, lam)
    return a / diagonal[:, None]


@register("proker")
class ProKeR(ExplainableClassifier):
    """Scores f = f_zs + k a with a = (K + lam I)^-1 (Y - f_zs(X)), k = exp(-beta (1 - cosine)) on the keys.

    f_zs are the zero-shot logits over 100, which for CLIP (s = 100) are the cosines. Logits are t f: one temperature t,
    taken from a fixed list by cross-entropy of the exact leave-one-out scores of the support, turns scores around 0 and
    1 into probabilities; it does not change a prediction.

    Parameters:
        beta: sharpness of the kernel. lam: strength of the ridge.
        balanced: scale a sample's ridge by (its class's count / mean count), so that every class is held to the prior
            equally however many samples it has; with equally many, or with False, the ridge is the published one.

    Attributes (after `fit`): `keys_` (M, f), `labels_` (M,), `coef_` (M, N) = a, `temperature_` () = t.
    """

    paper = (
        "Bendou et al., ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language Models, CVPR 2025"
    )
    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "beta": (0.3, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0),
        "lam": (0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1.0),
    }
    state: ClassVar[dict[str, tuple[str, ...]]] = {
        "keys_": ("M", "f"),
        "labels_": ("M",),
        "coef_": ("M", "N"),
        "temperature_": (),
    }

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        beta: float = 3.0,
        lam: float = 0.05,
        balanced: bool = True,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.beta = beta
        self.lam = lam
        self.balanced = balanced

    def _fit(self, support: Support) -> int:
        self.keys_, self.labels_ = support.key, support.labels
        self.coef_, self.temperature_ = self._solve(support, self.beta, self.lam)
        return 0

    def _solve(self, support: Support, beta: float, lam: float) -> tuple[Tensor, Tensor]:
        target = functional.one_hot(support.labels, support.n_classes).to(support.key)
        kernel = affinity(support.key @ support.key.T, beta)
        weights = vote_weights(support.labels, support.n_classes, balanced=self.balanced, dtype=kernel.dtype)
        coef, diagonal = ridge_solve(kernel, target - self._prior(support.embedding), lam / weights)
        scores = target - coef / diagonal[:, None]
        return coef, _temperature(scores, support.labels)

    def _prior(self, embedding: Tensor) -> Tensor:
        return zero_shot_logits(embedding, self.text_, self.logit_scale / CLIP_LOGIT_SCALE)

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        scores = self._prior(embedding) + affinity(key @ self.keys_.T, self.beta) @ self.coef_
        return self.temperature_ * scores

    def _cache(self, embedding: Tensor, key: Tensor) -> Cache:
        weights = affinity(key @ self.keys_.T, self.beta)
        coef = self.temperature_ * self.coef_
        return Cache(weights @ coef, weights, self.labels_, lambda predicted: weights * coef[:, predicted].T)

    def _candidates(self) -> Iterator[Candidates]:
        for beta in self.grid["beta"]:
            for lam in self.grid["lam"]:
                coef, temperature = self._solve(self._support, beta, lam)

                def score(
                    embedding: Tensor, key: Tensor, beta: float = beta, a: Tensor = coef, t: Tensor = temperature
                ) -> Iterator[Tensor]:
                    yield t * (self._prior(embedding) + affinity(key @ self.keys_.T, beta) @ a)

                yield Candidates([{"beta": beta, "lam": lam}], score, {"coef_": coef, "temperature_": temperature})


def _temperature(scores: Tensor, labels: Tensor) -> Tensor:
    """The temperature () out of 1 to 100, log-spaced, under which scores (M, N) have the lowest cross-entropy."""
    candidates = torch.logspace(0, 2, 21, dtype=scores.dtype, device=scores.device)
    losses = torch.stack([functional.cross_entropy(t * scores, labels) for t in candidates])
    return candidates[losses.argmin()]
