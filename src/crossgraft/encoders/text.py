"""Running a text tower over many texts: batches of similar length, so that padding is trimmed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from crossgraft.errors import InputError

BATCH = 64


def check_texts(texts: Sequence[str]) -> None:
    """Raises:
    InputError: no texts, or an empty one."""
    if not texts:
        raise InputError("no texts to encode")
    if blank := [i for i, text in enumerate(texts) if not text.strip()]:
        raise InputError(f"text number {blank[0] + 1} is empty")


def encode_in_batches(texts: Sequence[str], encode: Callable[[list[str]], Tensor]) -> Tensor:
    """Sort by length, encode in batches, restore the order -> (n, d) unit vectors, float32.

    A text costs what its own length costs, not what the longest text or the tower's limit would (77 -> 16 tokens:
    4.4x).

    Raises:
        InputError: no texts, or an empty one.
    """
    check_texts(texts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    encoded = [
        encode([texts[i] for i in order[start : start + BATCH]]).float() for start in range(0, len(order), BATCH)
    ]
    vectors = functional.normalize(torch.cat(encoded), dim=-1)
    return vectors[torch.tensor(order, device=vectors.device).argsort()]
