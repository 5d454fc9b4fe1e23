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

from crossgraft.fewshot.base import Candidates
from crossgraft.fewshot.cache import affinity, kernel, ridge_of
from crossgraft.fewshot.classes import drop_class
from crossgraft.fewshot.evidence import Cache, ExplainableClassifier
from crossgraft.fewshot.features import Support, mean_text
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.ridge import LEFT_OUT, factorise, leave_one_out, left_out_last, solve
from crossgraft.fewshot.zero_shot import zero_shot_logits

# CLIP's logits are 100 times a cosine. Any encoder's logits over 100 lie in the range of CLIP's cosines, where the
# published constants and one-hot targets belong.
CLIP_LOGIT_SCALE = 100.0


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

    Attributes (after `fit`): `keys_` (M, f), `embeddings_` (M, d), `labels_` (M,), `coef_` (M, N) = a,
        `temperature_` () = t.
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
        "embeddings_": ("M", "d"),
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
        self.keys_, self.embeddings_, self.labels_ = support.key, support.embedding, support.labels
        self.coef_, self.temperature_ = self._solve(support, self.beta, self.lam)
        return 0

    def _solve(self, support: Support, beta: float, lam: float) -> tuple[Tensor, Tensor]:
        """a (M, N) and t ()."""
        order = left_out_last(support.labels)
        some = min(LEFT_OUT, len(order))
        keys, labels = support.key[order], support.labels[order]
        target = functional.one_hot(labels, support.n_classes).to(keys)
        ridge = ridge_of(lam, labels, support.n_classes, keys.dtype, balanced=self.balanced)
        factor = factorise(kernel(keys, beta), ridge)
        solved = solve(factor, target - self._prior(support.embedding[order], support.text))
        scores = target[-some:] - leave_one_out(factor, solved, some)
        coef = torch.empty_like(solved)
        coef[order] = solved
        return coef, _temperature(scores, labels[-some:])

    def _prior(self, embedding: Tensor, text: Tensor) -> Tensor:
        return zero_shot_logits(embedding, text, self.logit_scale / CLIP_LOGIT_SCALE)

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        scores = self._prior(embedding, self.text_) + affinity(key @ self.keys_.T, self.beta) @ self.coef_
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
                    yield t * (self._prior(embedding, self.text_) + affinity(key @ self.keys_.T, beta) @ a)

                yield Candidates([{"beta": beta, "lam": lam}], score, {"coef_": coef, "temperature_": temperature})

    def _with_class(self, texts: Tensor, embedding: Tensor, key: Tensor) -> dict[str, Any]:
        mean = mean_text(texts[None])
        labels = torch.cat([self.labels_, self.labels_.new_full((len(key),), len(self.text_))])
        return self._again(
            torch.cat([self.keys_, key]),
            torch.cat([self.embeddings_, embedding]),
            labels,
            torch.cat([self.text_, mean]),
        )

    def _without_class(self, row: int) -> dict[str, Any]:
        left = drop_class(self, row)
        text = torch.cat([self.text_[:row], self.text_[row + 1 :]])
        return self._again(left["keys_"], left["embeddings_"], left["labels_"], text)

    def _again(self, keys: Tensor, embeddings: Tensor, labels: Tensor, text: Tensor) -> dict[str, Any]:
        """The state solved again for other samples and classes, from what the classifier holds."""
        support = Support(embeddings, keys, labels, text, text[:, None])
        coef, temperature = self._solve(support, self.beta, self.lam)
        state = {"keys_": keys, "embeddings_": embeddings, "labels_": labels, "coef_": coef}
        return state | {"temperature_": temperature}


def _temperature(scores: Tensor, labels: Tensor) -> Tensor:
    """The temperature () out of 1 to 100, log-spaced, under which scores (M, N) have the lowest cross-entropy."""
    candidates = torch.logspace(0, 2, 21, dtype=scores.dtype, device=scores.device)
    losses = torch.stack([functional.cross_entropy(t * scores, labels) for t in candidates])
    return candidates[losses.argmin()]
