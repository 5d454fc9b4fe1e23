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

_TRIALS = 16  # random pairs on which a head has to be additive to pass for linear
_LINEAR = 1e-9  # relative error allowed there, in float64; a kernel or a cache misses it by seven orders or more


def state_tensors(classifier: FewShotClassifier) -> dict[str, Tensor]:
    """The fitted tensors that `_logits` reads, by name."""
    return {name: getattr(classifier, name) for name in ("text_", *classifier.state)}


def linear_form(classifier: FewShotClassifier) -> tuple[Tensor, Tensor] | None:
    """W (N, p) and b (N,), float64, with logits = x W^T + b for x = [unit embedding | unit key] (n, p); None if not so.

    Decided by what `_logits` does, not by the method's name: it has to be additive on random pairs in float64. Then b
    is what it gives for zeros, and W what it gives for unit vectors. Where the embedding is its own key, x is that.
    """
    double = copy.copy(classifier)
    for name, tensor in state_tensors(classifier).items():
        setattr(double, name, tensor.cpu().double() if tensor.is_floating_point() else tensor.cpu())
    p, d = classifier.n_features_in_, classifier.text_.shape[1]

    def head(x: Tensor) -> Tensor:
        return double._logits(x[:, :d], x if p == d else x[:, d:])

    with torch.no_grad():
        bias = head(torch.zeros(1, p, dtype=torch.float64))  # (1, N)
        a, b = torch.randn(2, _TRIALS, p, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        # Of the length that features have, where an affinity is curved most.
        a, b = functional.normalize(a, dim=1), functional.normalize(b, dim=1)
        parts, whole = (head(a) - bias) + (head(b) - bias), head(a + b) - bias
        if not (whole - parts).abs().max() <= _LINEAR * parts.abs().max():  # NaN is not linear either
            return None
        return (head(torch.eye(p, dtype=torch.float64)) - bias).T.contiguous(), bias[0]


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
