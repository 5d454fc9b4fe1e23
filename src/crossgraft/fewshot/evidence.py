"""Why a classifier decided as it did: which texts and which support images spoke for the predicted class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.fewshot.base import FewShotClassifier


@dataclass(frozen=True)
class SupportVote:
    """A support image's part in a decision.

    `index` is its row in the X given to `fit`; `weight` its affinity to the query; `contribution` what it adds to the
    predicted class's logit.
    """

    index: int
    label: Any
    weight: float
    contribution: float


@dataclass(frozen=True)
class TextMatch:
    """How close a class's text is to the image."""

    label: Any
    cosine: float


@dataclass(frozen=True)
class Evidence:
    """What decided one prediction.

    `text_share` and `image_share` add up to 1: how much of the predicted class's lead over the mean of all classes
    comes from class texts and from support images. `ratio` is XMAdapter's g, else None. `supports` are the images that
    add most to the predicted class, `texts` the nearest class texts, best first.
    """

    label: Any
    probability: float
    text_share: float
    image_share: float
    ratio: float | None
    supports: tuple[SupportVote, ...]
    texts: tuple[TextMatch, ...]


class Cache(NamedTuple):
    """What support images did for n queries.

    Attributes:
        logits: (n, N) what they add to the logits, by image-image affinity.
        weights: (n, M) their affinities.
        labels: (M,) their classes' rows.
        contribution: predicted rows (n,) -> (n, M) what each adds to the predicted class's logit.
        ratio: (n,) XMAdapter's g, or None.
    """

    logits: Tensor
    weights: Tensor
    labels: Tensor
    contribution: Callable[[Tensor], Tensor]
    ratio: Tensor | None = None


def own_class_only(each: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """`Cache.contribution` for samples that add each (n, M) to the logit of their own class, labels (M,), only."""
    return lambda predicted: each * (labels == predicted[:, None])


class ExplainableClassifier(FewShotClassifier):
    """A few-shot classifier that can name the texts and support images behind a prediction."""

    def _cache(self, embedding: Tensor, key: Tensor) -> Cache | None:
        """The support images' part for unit embedding (n, d) and key (n, f); None where they have none."""
        return None

    @torch.no_grad()
    def explain(self, X: Any, k: int = 5) -> list[Evidence]:
        """X (n, p) -> the evidence for each prediction, with the k best supports and texts.

        Raises:
            InputError: bad features, or k below 1.
        """
        if k < 1:
            raise InputError(f"k={k}; expected at least 1")
        embedding, key = self._queries(X)
        return [evidence for cut in self._blocks(len(key)) for evidence in self._explain(embedding[cut], key[cut], k)]

    def _explain(self, embedding: Tensor, key: Tensor, k: int) -> list[Evidence]:
        logits, cache = self._logits(embedding, key), self._cache(embedding, key)
        predicted = logits.argmax(dim=1)
        image = torch.zeros_like(logits) if cache is None else cache.logits
        text_lead, image_lead = (_lead(part, predicted) for part in (logits - image, image))
        total = text_lead + image_lead
        # Where neither part leads (all logits equal), the text decides by its order.
        image_share = torch.where(total > 0, image_lead / torch.where(total > 0, total, torch.ones_like(total)), 0.0)
        probability = self.probabilities(logits).gather(1, predicted[:, None])[:, 0]
        labels = self.classes_.tolist()
        supports = [()] * len(key) if cache is None else _best_supports(cache, predicted, labels, k)
        cosines, nearest = (embedding @ self.text_.T).topk(min(k, len(labels)), dim=1)
        return [
            Evidence(
                label=labels[predicted[i]],
                probability=probability[i].item(),
                text_share=1 - image_share[i].item(),
                image_share=image_share[i].item(),
                ratio=None if cache is None or cache.ratio is None else cache.ratio[i].item(),
                supports=supports[i],
                texts=tuple(
                    TextMatch(labels[row], cosine)
                    for row, cosine in zip(nearest[i].tolist(), cosines[i].tolist(), strict=True)
                ),
            )
            for i in range(len(key))
        ]


def _lead(part: Tensor, predicted: Tensor) -> Tensor:
    """How far a part of the logits (n, N) lifts the predicted class above the mean of all, at least zero -> (n,)."""
    return (part.gather(1, predicted[:, None])[:, 0] - part.mean(dim=1)).clamp(min=0)


def _best_supports(cache: Cache, predicted: Tensor, labels: list[Any], k: int) -> list[tuple[SupportVote, ...]]:
    contribution, weights = cache.contribution(predicted).cpu().numpy(), cache.weights.cpu().numpy()
    rows = cache.labels.tolist()
    best = np.lexsort((-weights, -contribution), axis=1)[:, :k]  # by contribution, then by affinity
    return [
        tuple(
            SupportVote(index, labels[rows[index]], float(weights[i, index]), float(contribution[i, index]))
            for index in best[i].tolist()
        )
        for i in range(len(best))
    ]
