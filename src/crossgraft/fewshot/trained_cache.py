"""Tuning a cache that is trained: search, train, search."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.features import Support


class TrainedCache(FewShotClassifier):
    """A cache that is built from the support and then trained.

    The published constants assume CLIP's range of cosines. On another encoder they may silence the cache, and training
    a silent cache teaches it nothing. So `tune` searches the cache as it is before training, trains it under what that
    found, and searches again.
    """

    @abstractmethod
    def _build(self, support: Support) -> Any:
        """Set the untrained state; return what `_train` goes on with."""

    @abstractmethod
    def _train(self, support: Support, built: Any) -> int:
        """Train the state that `_build` set; return the trained parameter count."""

    def _fit(self, support: Support) -> int:
        return self._train(support, self._build(support))

    def _search(self, embedding: Tensor, key: Tensor, labels: Tensor) -> None:
        self._build(self._support)
        super()._search(embedding, key, labels)
        with torch.enable_grad():
            self.n_parameters_ = self._fit(self._support)
        super()._search(embedding, key, labels)
