"""A fitted classifier, alone or behind its image tower, as a `torch.nn.Module` that an exporter can trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossgraft.encoders.base import Encoder
from crossgraft.fewshot.base import FewShotClassifier
from crossgraft.fewshot.features import unit
from crossgraft.fewshot.linear_form import linear_form, state_tensors


class Head(nn.Module):
    """Features X (n, p), as `predict` takes them, float32 -> logits (n, N), probabilities (n, N).

    A head that is linear in the unit features is one matrix product (`is_linear`), whatever method learned it; any
    other runs its method's own `_logits`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, classifier: FewShotClassifier) -> None:
        super().__init__()
        self._classifier = classifier
        self._d, self._p = classifier.text_.shape[1], classifier.n_features_in_
        form = linear_form(classifier)
        self.is_linear = form is not None
        tensors = state_tensors(classifier) if form is None else dict(zip(("weight", "bias"), form, strict=True))
        self._names = tuple(tensors)
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float().cpu() if tensor.is_floating_point() else tensor.cpu())

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        embedding = unit(X[:, : self._d])
        key = embedding if self._p == self._d else unit(X[:, self._d :])
        if self.is_linear:
            x = embedding if self._p == self._d else torch.cat([embedding, key], dim=1)
            logits = functional.linear(x, self.weight, self.bias)
        else:
            # The method's own code, on tensors that the module owns: an exporter follows buffers, not attributes of
            # an estimator.
            traced = copy.copy(self._classifier)
            for name in self._names:
                setattr(traced, name, getattr(self, name))
            logits = traced._logits(embedding, key)
        return logits, self._classifier.probabilities(logits)


class Pipeline(nn.Module):
    """Preprocessed pixels (n, 3, H, W) float32 -> logits (n, N), probabilities (n, N): image tower and head."""

    def __init__(self, encoder: Encoder, head: Head, *, with_feature: bool) -> None:
        super().__init__()
        self._encode: Callable[[Tensor], Any] = encoder.encode_images
        self._with_feature = with_feature
        # The encoder is no module; its towers are, and an exporter has to find their weights. What images do not need
        # is dropped from the graph.
        self.towers = nn.ModuleList(part for part in vars(encoder).values() if isinstance(part, nn.Module))
        self.head = head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self._encode(pixels)
        if not self._with_feature:
            return self.head(features.embedding)
        return self.head(torch.cat([features.embedding, features.feature], dim=1))
