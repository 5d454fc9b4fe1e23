"""What frozen layers gave, kept on disk for each sample: computed when a sample is first met, and never again."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossgraft.adapt.prefix import Prefix
from crossgraft.training.forms.base import MEMORIES, TEXT, TYPES, VISUAL

RESERVE = 4 * 2**30  # bytes of the disk that are left free; samples that come then are computed each time


class _Place(NamedTuple):
    """Where a sample's states are in the file: byte, tokens of text, tokens of images, width."""

    offset: int
    words: int
    tokens: int
    width: int


class PrefixCache:
    """States after the first layers of the encoder, by sample.

    A sample's states do not depend on the others of its batch: padding is cut off before they are kept, and put back to
    the length of whatever batch they come in next.

    Args:
        folder: where its file is; it is removed when the cache is closed or the process ends.

    Attributes:
        computed, reused: how many samples were.
    """

    def __init__(self, folder: Path) -> None:
        # Unlinked at once: the file lives as long as it is open, so that no kill leaves it behind.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".prefix-", delete=False) as file:
            self._file = os.open(file.name, os.O_RDWR)
            os.unlink(file.name)
        self._folder = folder
        self._place: dict[Hashable, _Place] = {}
        self._end = 0
        self.computed = self.reused = 0

    def close(self) -> None:
        os.close(self._file)

    def prefix(
        self,
        capture: Callable[..., Prefix],
        layers: int,
        samples: Sequence[Hashable],
        batch: dict[str, Any],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Prefix:
        """The prefix of a batch: what was kept of its samples, and what has to be computed of the others.

        Args:
            capture: (layers, **rows of the batch) -> their prefix.
            samples: what each row is; the same sample has the same states for the same `layers`.
            batch: what the frozen layers read.
            device, dtype: of the states.
        """
        keys = [(layers, sample) for sample in samples]
        absent = {key: row for row, key in enumerate(keys) if key not in self._place}  # a sample may come twice
        fresh = self._compute(capture, absent, layers, batch, device) if absent else {}
        self.reused += len(keys) - len(absent)
        rows = [fresh[key] if key in fresh else self._read(self._place[key]) for key in keys]
        return _padded(layers, rows, device, dtype)

    def _compute(
        self,
        capture: Callable[..., Prefix],
        absent: dict[Any, int],
        layers: int,
        batch: dict[str, Any],
        device: torch.device,
    ) -> dict[Any, tuple[Tensor, int]]:
        """States (n, d) of samples that are not there, and how many of them are text; kept if there is room."""
        rows = torch.tensor(list(absent.values()))
        prefix = capture(layers, **{name: value[rows].to(device) for name, value in batch.items()})
        states, mask = prefix.states.float().cpu(), prefix.mask.cpu().bool()
        fresh = {}
        for row, key in enumerate(absent):
            kept = states[row, mask[row]].contiguous()
            words = int(mask[row, : prefix.text_length].sum())
            fresh[key] = kept, words
            if shutil.disk_usage(self._folder).free > RESERVE + kept.nbytes:
                self._place[key] = _Place(self._end, words, len(kept) - words, kept.shape[1])
                self._end += os.pwrite(self._file, kept.numpy().tobytes(), self._end)
        self.computed += len(absent)
        return fresh

    def _read(self, place: _Place) -> tuple[Tensor, int]:
        length = place.words + place.tokens
        content = os.pread(self._file, length * place.width * 4, place.offset)
        states = np.frombuffer(content, dtype=np.float32).reshape(length, place.width)
        return torch.from_numpy(states.copy()), place.words


def _padded(layers: int, rows: list[tuple[Tensor, int]], device: torch.device, dtype: torch.dtype) -> Prefix:
    """Samples' states (n, d) and how many are text -> a batch: texts padded on the right, then images likewise."""
    text = max(words for _, words in rows)
    images = max(len(kept) - words for kept, words in rows)
    states = torch.zeros(len(rows), text + images, rows[0][0].shape[1])
    mask = torch.zeros(len(rows), text + images, dtype=torch.long)
    for row, (kept, words) in enumerate(rows):
        tokens = len(kept) - words
        states[row, :words], states[row, text : text + tokens] = kept[:words], kept[words:]
        mask[row, :words] = mask[row, text : text + tokens] = 1
    return Prefix(layers, states.to(device, dtype), mask.to(device), text)


def inputs_of(batch: dict[str, Any]) -> dict[str, Tensor]:
    """Of a batch, what a model reads and looks at."""
    return {name: batch[name] for name in (*TEXT, TYPES, *VISUAL, *MEMORIES) if name in batch}
