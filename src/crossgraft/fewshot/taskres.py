"""TaskRes: a residual is learned beside each class text.

Yu et al., "Task Residual for Tuning Vision-Language Models", CVPR 2023 (arXiv 2211.10277), equation 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from crossgraft.fewshot.features import Support
from crossgraft.fewshot.registry import register
from crossgraft.fewshot.trained_prototypes import TrainedPrototypes


@register("taskres")
class TaskRes(TrainedPrototypes):
    """Prototypes unit(t + alpha r); r is trained from zero by cross-entropy. Logits are s x p^T on joint features.

    The joint features, and the halves of a prototype, are `prototypes.py`'s. AdamW stands in for Adam (weight decay
    0.01 on r), and 100 epochs hold at every number of shots (published: 200 from 8 shots on).

    Parameters:
        alpha: scale of the residual; 0.5 as published.

    Attributes (after `fit`): as `TrainedPrototypes`'.
    """

    paper = "Yu et al., Task Residual for Tuning Vision-Language Models, CVPR 2023"
    grid: ClassVar[dict[str, tuple[float, ...]]] = {"alpha": (0.1, 0.3, 0.5, 1.0, 2.0)}

    def __init__(
        self,
        text: Any = None,
        classes: Sequence[Any] | None = None,
        logit_scale: float = 100.0,
        alpha: float = 0.5,
        epochs: int = 100,
        lr: float = 2e-3,
        batch_size: int = 256,
        random_state: int | np.random.RandomState | None = 0,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(text, classes, logit_scale, epochs, lr, batch_size, random_state, device)
        self.alpha = alpha

    def _residual(self, support: Support, value: float) -> tuple[float, Callable[[Tensor], Tensor]]:
        return value, lambda residual: residual.new_zeros(())
