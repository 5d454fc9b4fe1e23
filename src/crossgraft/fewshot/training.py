"""The training loop of the trained few-shot solvers: AdamW and a cosine schedule over cached features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from crossgraft.errors import CrossgraftError, InputError


def seeded(random_state: int | np.random.RandomState | None) -> torch.Generator:
    """A CPU generator seeded from a scikit-learn `random_state`; the same draws on every device."""
    seed = random_state if isinstance(random_state, int) else check_random_state(random_state).randint(2**31)
    return torch.Generator().manual_seed(seed)


def train(
    parameters: Sequence[Tensor],
    loss: Callable[[Tensor], Tensor],
    n: int,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
) -> None:
    """Minimise `loss`, a function of the (B,) indices of a batch out of n samples, over `parameters`, in place.

    AdamW (eps 1e-4) with the rate falling from lr to 0 on a cosine over all steps: the recipe of Tip-Adapter-F (Zhang
    et al., ECCV 2022, released code). The final epoch is the model; nothing is picked on the way.

    Raises:
        InputError: a negative number of epochs, or an empty batch.
        CrossgraftError: the loss is no longer finite.
    """
    if epochs < 0 or batch_size < 1:
        raise InputError(f"epochs={epochs}, batch_size={batch_size}; expected at least 0 and 1")
    steps = epochs * -(-n // batch_size)
    optimizer = torch.optim.AdamW(parameters, lr=lr, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps))
    for _ in range(epochs):
        for batch in torch.randperm(n, generator=generator).split(batch_size):
            value = loss(batch.to(parameters[0].device))
            if not torch.isfinite(value):
                raise CrossgraftError(f"training diverged (loss {value.item()}); lower lr ({lr}) or logit_scale")
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
