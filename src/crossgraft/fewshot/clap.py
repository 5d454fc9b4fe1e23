"""CLAP: a linear probe that starts at the texts, and is held to each as far as the text alone was right.

Silva-Rodriguez et al., "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models", CVPR 2024
(arXiv 2312.12730).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from crossgraft.fewshot.features import Support, class_means
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.trained_prototypes import TrainedPrototypes
from crossgraft.fewshot.zero_shot import zero_shot_logits


def text_confidence(support: Support, logit_scale: float) -> Tensor:
    """Mean zero-shot probability of its class over the samples of each class -> (N,); without any, the others'."""
    probability = zero_shot_logits(support.embedding, support.text, logit_scale).softmax(dim=1)
    own = probability.gather(1, support.labels[:, None])
    seen = support.counts > 0
    means = class_means(own, support.labels, support.n_classes)[:, 0]
    return torch.where(seen, means, means[seen].mean())


@register("clap")
class CLAP(TrainedPrototypes):
    """Prototypes p_c = unit(w_c), trained from w_c = t_c by cross-entropy + lam mean_c lam_c ||w_c - t_c||^2.

    lam_c is how sure zero-shot classification is of the support of class c. Logits are s x p^T on the joint features of
    `prototypes.py`. Where the released code takes SGD (0.1, momentum 0.9) over texts of CLIP's own length, this takes
    the house's AdamW over texts of unit length.

    Parameters:
        lam: strength of the penalty; 1 as published. Toward 0 it is the paper's ZS-LP.

    Attributes (after `fit`): as `TrainedPrototypes`'.
    """

    paper = (
        "Silva-Rodriguez et al., A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models, CVPR 2024"
    )
    grid: ClassVar[dict[str, tuple[float, ...]]] = {"lam": (0.1, 1.0, 10.0, 100.0)}

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        lam: float = 1.0,
        epochs: int = 300,
        lr: float = 1e-3,
        batch_size: int = 256,
        random_state: int | np.random.RandomState | None = 0,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, epochs, lr, batch_size, random_state, device)
        self.lam = lam

    def _residual(self, support: Support, value: float) -> tuple[float, Callable[[Tensor], Tensor]]:
        strength = value * text_confidence(support, self.logit_scale)
        return 1.0, lambda residual: (strength * residual.square().sum(dim=1)).mean()
