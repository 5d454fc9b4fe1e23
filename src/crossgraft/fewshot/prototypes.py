"""Class prototypes over [embedding | key]: what SS-Text, CLAP and TaskRes share.

Their papers know one space, in which images and texts meet. Where the un-projected feature comes as a key beside the
embedding, images say more in it than in the embedding, and texts say nothing. So a prototype has two halves: it starts
as [text | 0], and what is learned from images goes to both halves. With the embedding as its own key there is one half,
and the rule is the published one. On the validation split of Caltech-101, over both pocket encoders and 1 to 16 shots,
this is 2 to 9 points better than the embedding alone.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.features import Support


def joint(embedding: Tensor, key: Tensor, *, shared: bool) -> Tensor:
    """[embedding | key] (n, d + f) of embedding (n, d) and key (n, f); the embedding alone if the two are `shared`."""
    return embedding if shared else torch.cat([embedding, key], dim=1)


class PrototypeClassifier(FewShotClassifier):
    """Logits s * (joint features x) p^T with one prototype p a class, a unit vector.

    Attributes (after `fit`): `prototypes_` (N, w), with w = d + f, or w = d where the embedding is its own key.
    """

    state: ClassVar[dict[str, tuple[str, ...]]] = {"prototypes_": ("N", "w")}

    def _start(self, support: Support) -> tuple[Tensor, Tensor]:
        """The support's joint features (M, w), and the text prototypes [text | 0] (N, w)."""
        x = joint(support.embedding, support.key, shared=self._shared)
        d = support.text.shape[1]
        return x, torch.cat([support.text, support.text.new_zeros(support.n_classes, x.shape[1] - d)], dim=1)

    def _logits(self, embedding: Tensor, key: Tensor) -> Tensor:
        return self._scores(embedding, key, self.prototypes_)

    def _scores(self, embedding: Tensor, key: Tensor, prototypes: Any) -> Tensor:
        d = embedding.shape[1]
        scores = embedding @ prototypes[:, :d].T
        if prototypes.shape[1] > d:
            scores = scores + key @ prototypes[:, d:].T
        return self.logit_scale * scores
