"""The processes of one run, as `torchrun` and `accelerate launch` start them. A process that is alone is the first."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed


def join(device: torch.device) -> torch.device:
    """Meet the other processes, if there are any -> this one's device."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    from accelerate import PartialState

    return PartialState(cpu=device.type == "cpu").device


def world() -> int:
    """How many there are."""
    return distributed.get_world_size() if _joined() else 1


def rank() -> int:
    """Which one this is."""
    return distributed.get_rank() if _joined() else 0


def is_first() -> bool:
    """Whether this is the one that writes and prints."""
    return rank() == 0


def wait() -> None:
    """Until all have come here."""
    if _joined():
        distributed.barrier()


def gathered(part: list[Any]) -> list[Any]:
    """The parts of all processes, one behind the other."""
    if not _joined():
        return part
    parts: list[Any] = [None] * world()
    distributed.all_gather_object(parts, part)
    return [item for own in parts for item in own]


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
