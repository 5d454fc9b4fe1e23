"""How hyperparameters may be chosen (docs/protocols.md)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from crossgraft.errors import InputError
from crossgraft.fewshot.data import ImageSplit, sample_support

Protocol = Literal["none", "min4", "full"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
MIN4 = 4


def check_protocol(protocol: str, has_val: bool) -> None:
    """Raise InputError for an unknown protocol, or `full` without a validation split."""
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r} is unknown: choose from {', '.join(PROTOCOLS)}")
    if protocol == "full" and not has_val:
        raise InputError("protocol full needs a validation split, and this data has none; use none or min4")


def validation_indices(
    val: ImageSplit, n_classes: int, shots: int | Literal["all"], seed: int, protocol: Protocol
) -> np.ndarray:
    """Which images of the validation split the protocol lets `tune` see: none; min(K, 4) a class; all."""
    if protocol == "none":
        return np.empty(0, dtype=np.int64)
    if protocol == "full":
        return np.arange(len(val))
    limit = MIN4 if shots == "all" else min(shots, MIN4)
    labels = np.asarray(val.labels)
    present = np.unique(labels)
    # A class with fewer validation images gives those it has; one with none gives none.
    compact = ImageSplit(val.paths, tuple(int(i) for i in np.searchsorted(present, labels)))
    drawn = sample_support(compact, len(present), "all", seed)
    return np.concatenate([drawn[np.asarray(compact.labels)[drawn] == c][:limit] for c in range(len(present))])
