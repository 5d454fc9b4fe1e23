"""Visual features standardised: each channel's mean taken off, divided by its standard deviation over training images.

Encoders' tokens have a few channels that are huge and nearly the same for every image (CLIP ViT-B/16: up to 80, where
the others vary by 2). Behind a linear map and a norm they drown all that differs between images, and a frozen language
model learns to look many times slower (docs/vl_adapter.md has the figures). Ours; VL-Adapter's features had none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.tasks import Example, Task
from crossgraft.tensors import read_tensors

if TYPE_CHECKING:
    from crossgraft.training.visual import VisualSource

FILE = "visual.safetensors"
ENOUGH = 2000  # examples that the statistics are taken over


class Standard(NamedTuple):
    """Mean and standard deviation (g,) of each channel."""

    mean: Tensor
    std: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """features (..., g), standardised."""
        return (features - self.mean) / self.std

    @classmethod
    def of(cls, mean: Tensor, std: Tensor) -> Standard:
        """From what was measured (g,). A channel that never changes tells nothing, and must not be blown up where it
        does change one day."""
        least = max(float(std.median()) / 100, 1e-6)
        return cls(mean.float(), std.clamp(min=least).float())

    def save(self, folder: Path, name: str = FILE) -> None:
        """Write them into a run's folder."""
        save_file({"mean": self.mean.contiguous(), "std": self.std.contiguous()}, folder / name)


def read_standard(folder: Path, width: int, name: str = FILE) -> Standard:
    """What `Standard.save` wrote.

    Raises:
        InputError: the file is missing or damaged, or of features of another width.
    """
    tensors = read_tensors(folder / name)
    if tensors.keys() != {"mean", "std"} or any(value.shape != (width,) for value in tensors.values()):
        raise InputError(
            f"{folder / name}: expected mean and std of {width} channels; train again, elsewhere (out=...)"
        )
    return Standard(tensors["mean"], tensors["std"])


def measure(tasks: Mapping[str, Task], examples: Mapping[str, Sequence[Example]], source: VisualSource) -> Standard:
    """Over at most `ENOUGH` training examples with images, evenly spread.

    Args:
        tasks, examples: by name in the run.
        source: gives their features as they are.
    """
    shown = [(example, tasks[name].visual) for name, part in examples.items() for example in part if example.images]
    width = source.feature_width
    count, total, squares = 0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for example, kind in shown[:: max(1, len(shown) // ENOUGH)]:
        rows = source.of(example, kind).reshape(-1, width).double()
        count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
    mean = total / max(count, 1)
    std = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
    return Standard.of(mean, std)
