"""Tip-Adapter: a cache of the support images votes beside the text; Tip-Adapter-F also trains the cache keys.

Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022 (arXiv 2207.09519).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.fewshot.base import Candidates
from crossgraft.fewshot.bounded_votes import BoundedVotes
from crossgraft.fewshot.cache import affinity, vote_weights, votes
from crossgraft.fewshot.classes import drop_class
from crossgraft.fewshot.evidence import Cache, ExplainableClassifier, own_class_only
from crossgraft.fewshot.features import Support
from crossgraft.fewshot.inputs import split_features
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.trained_cache import TrainedCache
from crossgraft.fewshot.training import seeded, train
from crossgraft.fewshot.zero_shot import zero_shot_logits


@register("tip-adapter")
class TipAdapter(ExplainableClassifier):
    """Logits s f W^T + alpha A V with A = exp(-beta (1 - key K^T)), K the support keys, V their one-hot labels.

    Parameters:
        alpha: weight of the cache's votes. beta: sharpness of the affinity.
        balanced: count a class's votes as if every class had the mean number of samples (`cache.vote_weights`); with
            equally many samples a class, and with False always, the votes are the published ones.

    Attributes (after `fit`): `keys_` (M, f), `weights_` (M,), `labels_` (M,).
    """

    paper = "Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, ECCV 2022"
    # The published search covers alpha up to 3 and beta up to 7 in 20 x 200 steps, for CLIP's embeddings. This one is
    # coarser and goes further, because other encoders' cosines and logits lie on other scales.
    grid: ClassVar[dict[str, tuple[float, ...]]] = {
        "alpha": (0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0),
        "beta": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.5, 7.0, 10.0, 15.0, 20.0, 30.0),
    }
    state: ClassVar[dict[str, tuple[str, ...]]] = {"keys_": ("M", "f"), "labels_": ("M",), "weights_": ("M",)}

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        alpha: float = 1.0,
        beta: float = 5.5,
        balanced: bool = True,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.alpha = alpha
        self.beta = beta
        self.balanced = balanced

    def _fit(self, support: Support) -> int:
        self.keys_ = support.key
        self.labels_ = support.labels
        self.weights_ = vote_weights(support.labels, support.n_classes, balanced=self.balanced, dtype=support.key.dtype)
        return 0

    def _votes(self, key: Tensor, beta: float) -> Tensor:
        """A V: (n, f) -> (n, N)."""
        return votes(affinity(key @ self.keys_.T, beta), self.weights_, self.labels_, len(self.text_))

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        return zero_shot_logits(embedding, self.text_, self.logit_scale) + self.alpha * self._votes(key, self.beta)

    def _decider(self, n: int) -> Callable[[Tensor], Tensor]:
        everything = super()._decider(n)
        # Making bounds costs about what all votes of so many queries cost.
        if n < len(self.text_) or self.keys_.device.type != "cpu":
            return everything
        bounded = BoundedVotes.of(self.keys_, self.labels_, self.weights_, len(self.text_), self.beta)
        if not bounded.sound:
            return everything

        def decide(features: Tensor) -> Tensor:
            embedding, key = split_features(features, self.text_.shape[1])
            return bounded.best(
                key,
                self.alpha,
                text=lambda cut: zero_shot_logits(embedding[cut], self.text_, self.logit_scale),
                dense=lambda rows: everything(features[rows]),
                scale=self.logit_scale,
            )

        return decide

    def _cache(self, embedding: Tensor, key: Tensor) -> Cache:
        affinities = affinity(key @ self.keys_.T, self.beta)
        logits = self.alpha * votes(affinities, self.weights_, self.labels_, len(self.text_))
        each = self.alpha * affinities * self.weights_
        return Cache(logits, affinities, self.labels_, own_class_only(each, self.labels_))

    def _candidates(self) -> Iterator[Candidates]:
        params = [{"alpha": alpha, "beta": beta} for beta in self.grid["beta"] for alpha in self.grid["alpha"]]

        def score(embedding: Tensor, key: Tensor) -> Iterator[Tensor]:
            text_logits = zero_shot_logits(embedding, self.text_, self.logit_scale)
            for beta in self.grid["beta"]:
                cache_votes = self._votes(key, beta)
                for alpha in self.grid["alpha"]:
                    yield text_logits + alpha * cache_votes

        yield Candidates(params, score)

    def _with_class(self, texts: Tensor, embedding: Tensor, key: Tensor) -> dict[str, Any]:
        n = len(self.text_)
        labels = torch.cat([self.labels_, self.labels_.new_full((len(key),), n)])
        return self._cached(torch.cat([self.keys_, key]), labels, n + 1)

    def _without_class(self, row: int) -> dict[str, Any]:
        kept = drop_class(self, row)
        return self._cached(kept["keys_"], kept["labels_"], len(self.text_) - 1)

    def _cached(self, keys: Tensor, labels: Tensor, n_classes: int) -> dict[str, Any]:
        weights = vote_weights(labels, n_classes, balanced=self.balanced, dtype=keys.dtype)
        return {"keys_": keys, "labels_": labels, "weights_": weights}


@register("tip-adapter-f")
class TipAdapterF(TrainedCache, TipAdapter):
    """Tip-Adapter whose keys are trained by cross-entropy on the support, starting from the support's own.

    As released, a training sample sees its own key in the cache. Unlike released, the final epoch is the model (the
    original picks the epoch on test data).

    Parameters (beside TipAdapter's): epochs, lr, batch_size, random_state: see `training.train`.

    Attributes (after `fit`): as TipAdapter's; `n_parameters_` = M f.
    """

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        alpha: float = 1.0,
        beta: float = 5.5,
        balanced: bool = True,
        epochs: int = 20,
        lr: float = 1e-3,
        batch_size: int = 256,
        random_state: int | np.random.RandomState | None = 0,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, alpha, beta, balanced, device)
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.random_state = random_state

    def _build(self, support: Support) -> torch.Generator:
        TipAdapter._fit(self, support)
        return seeded(self.random_state)

    def _train(self, support: Support, built: torch.Generator) -> int:
        self.keys_ = support.key.clone().requires_grad_()

        def loss(batch: Tensor) -> Tensor:
            return functional.cross_entropy(
                self._logits(support.embedding[batch], support.key[batch]), support.labels[batch]
            )

        train(
            [self.keys_],
            loss,
            len(support.labels),
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            generator=built,
        )
        self.keys_ = self.keys_.detach()
        return self.keys_.numel()

    def _cached(self, keys: Tensor, labels: Tensor, n_classes: int) -> dict[str, Any]:
        """A new class's keys are taken as they are, the others stay as trained."""
        return super()._cached(keys, labels, n_classes) | {"n_parameters_": keys.numel()}
