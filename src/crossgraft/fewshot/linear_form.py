"""Whether a fitted classifier is linear in the unit features, and the one matrix that it then is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.fewshot.base import FewShotClassifier

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
