"""What frozen layers gave, kept on disk for each sample: computed when a sample is first met, and never again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgraft.models.seq2seq import Prefix, VisionSeq2Seq


class PrefixCache:
    """States after the first layers of the encoder, by sample.

    A sample's states do not depend on the others of its batch: padding is cut off before they are kept, and put back to
    the length of whatever batch they come in next.

    Args:
        folder: where its file is; it is removed when the cache is closed or the process ends.
    """

    def __init__(self, folder: Path) -> None:
        # Unlinked at once: the file lives as long as it is open, so that no kill leaves it behind.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".prefix-", delete=False) as file:
            self._file = os.open(file.name, os.O_RDWR)
            os.unlink(file.name)
        self._place: dict[Hashable, tuple[int, int, int]] = {}  # sample -> offset, tokens of text, tokens of images
        self._end = 0
        self.computed = self.reused = 0

    def close(self) -> None:
        os.close(self._file)

    def prefix(
        self,
        model: VisionSeq2Seq,
        layers: int,
        samples: Sequence[Hashable],
        batch: dict[str, Any],
        device: torch.device,
    ) -> Prefix:
        """The prefix of a batch: read from the file if all its samples are there, computed and kept if not.

        Args:
            samples: what each row is; the same sample has the same states for the same `layers`.
            batch: the arguments of `VisionSeq2Seq.embed`.
        """
        keys = [(layers, sample) for sample in samples]
        if all(key in self._place for key in keys):
            self.reused += len(keys)
            return self._read(layers, keys, model.config.language_config().d_model, device, model.dtype)
        prefix = model.capture(layers, **{name: value.to(device) for name, value in batch.items()})
        self.computed += len(keys)
        self._write(keys, prefix)
        return prefix

    def _write(self, keys: Sequence[Hashable], prefix: Prefix) -> None:
        states, mask = prefix.states.float().cpu(), prefix.mask.cpu().bool()
        for row, key in enumerate(keys):
            kept = states[row, mask[row]].contiguous().numpy()
            text = int(mask[row, : prefix.text_length].sum())
            self._place[key] = (self._end, text, len(kept) - text)
            self._end += os.pwrite(self._file, kept.tobytes(), self._end)

    def _read(
        self, layers: int, keys: Sequence[Hashable], width: int, device: torch.device, dtype: torch.dtype
    ) -> Prefix:
        places = [self._place[key] for key in keys]
        text = max(length for _, length, _ in places)
        images = max(length for _, _, length in places)
        states = torch.zeros(len(keys), text + images, width)
        mask = torch.zeros(len(keys), text + images, dtype=torch.long)
        for row, (offset, words, tokens) in enumerate(places):
            content = os.pread(self._file, (words + tokens) * width * 4, offset)
            kept = torch.from_numpy(np.frombuffer(content, dtype=np.float32).reshape(-1, width).copy())
            states[row, :words], states[row, text : text + tokens] = kept[:words], kept[words:]
            mask[row, :words] = mask[row, text : text + tokens] = 1
        return Prefix(layers, states.to(device, dtype), mask.to(device), text)


def samples_of(rows: Sequence[Any], split: str) -> list[Hashable]:
    """The keys of a batch's rows: their epochs do not matter."""
    return [(split, row.task, row.place) for row in rows]


def inputs_of(batch: dict[str, Any]) -> dict[str, Tensor]:
    """Of a batch, what `VisionSeq2Seq.embed` takes."""
    names = ("input_ids", "attention_mask", "visual", "visual_mask")
    return {name: batch[name] for name in names if name in batch}
