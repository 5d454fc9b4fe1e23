"""Prototypes that are trained: a text prototype and a residual learned by cross-entropy. CLAP and TaskRes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.fewshot.base import Candidates
from crossgraft.fewshot.features import Support, unit
from crossgraft.fewshot.prototypes import PrototypeClassifier
from crossgraft.fewshot.training import seeded, train


class TrainedPrototypes(PrototypeClassifier):
    """Unit prototypes unit(t + scale r), with the residual r trained from zero by `training.train`.

    Parameters (beside the method's own): epochs, lr, batch_size, random_state: see `training.train`. The final epoch is
        the model.

    Attributes (after `fit`): `prototypes_` (N, w); `n_parameters_` = N w.
    """

    def __init__(
        self,
        text: Any,
        classes: Sequence[Any] | None,
        logit_scale: float,
        epochs: int,
        lr: float,
        batch_size: int,
        random_state: int | np.random.RandomState | None,
        device: str | torch.device | None,
    ) -> None:
        super().__init__(text, classes, logit_scale, device)
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.random_state = random_state

    @abstractmethod
    def _residual(self, support: Support, value: float) -> tuple[float, Callable[[Tensor], Tensor]]:
        """Scale of the residual, and its penalty () as a function of it (N, w), at a value of `grid`'s one name."""

    def _fit(self, support: Support) -> int:
        (name,) = self.grid
        self.prototypes_ = self._trained(support, getattr(self, name))
        return self.prototypes_.numel()

    def _trained(self, support: Support, value: float) -> Tensor:
        scale, penalty = self._residual(support, value)
        x, start = self._start(support)
        residual = torch.zeros_like(start).requires_grad_()

        def loss(batch: Tensor) -> Tensor:
            logits = self.logit_scale * (x[batch] @ unit(start + scale * residual).T)
            return functional.cross_entropy(logits, support.labels[batch]) + penalty(residual)

        with torch.enable_grad():
            train(
                [residual],
                loss,
                len(x),
                epochs=self.epochs,
                lr=self.lr,
                batch_size=self.batch_size,
                generator=seeded(self.random_state),
            )
        return unit(start + scale * residual.detach())

    def _candidates(self) -> Iterator[Candidates]:
        (name,) = self.grid
        for value in self.grid[name]:
            prototypes = self._trained(self._support, value)

            def score(embedding: Tensor, key: Tensor, p: Tensor = prototypes) -> Iterator[Tensor]:
                yield self._scores(embedding, key, p)

            yield Candidates([{name: value}], score, {"prototypes_": prototypes})
