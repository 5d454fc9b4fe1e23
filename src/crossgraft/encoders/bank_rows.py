"""The rows of an image bank: unit vectors, read a block at a time from memory, from mapped files, or from a device."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crossgraft.encoders.store import FeatureStore, shard_path
from crossgraft.errors import InputError

UNIT = 1e-6
"""Rows whose lengths differ from 1 by no more are unit as they are: it is what float32 leaves of a normalised row."""
_NUMBERS = 1 << 22
"""Numbers in a block of what runs over all rows and has no size of its own: 16 MiB."""


@dataclass(frozen=True)
class Block:
    """Rows start, start + 1, ...: `x` (n, d) float32, a view or a buffer that the next block overwrites.

    The unit rows are x * scale[:, None], or x itself where `scale` (n,) is None.
    """

    start: int
    x: Tensor
    scale: Tensor | None

    def take(self, rows: Tensor) -> Tensor:
        """Some of its unit rows, counted from its first: rows (m,) -> (m, d), copied."""
        return self.x[rows] if self.scale is None else self.x[rows] * self.scale[rows, None]


@dataclass(frozen=True)
class Rows:
    """Unit rows over tensors that are never copied as a whole. Make one with `Rows.of`.

    `parts` are tensors (n, d) one below the other and part i holds what comes before `ends[i]`. `scale` (of all their
    rows) is None where they are unit; `index` holds the ascending rows of the parts that these are, None for all.
    """

    parts: tuple[Tensor, ...]
    ends: tuple[int, ...]
    scale: Tensor | None = None
    index: Tensor | None = None

    @classmethod
    def of(cls, named: Sequence[tuple[str, Tensor]]) -> Rows:
        """Check tensors of any floating dtype, with the names that errors call them; each is read once.

        Raises:
            InputError: another shape or dtype, no rows, NaN, infinity, or a row of length 0.
        """
        for name, part in named:
            if part.ndim != 2 or not part.is_floating_point() or part.shape[1] != named[0][1].shape[1]:
                raise InputError(
                    f"{name}: expected embeddings (N, d) of floating-point numbers, one row an image, found "
                    f"{tuple(part.shape)} of {str(part.dtype).removeprefix('torch.')}"
                )
        named = [(name, part.detach()) for name, part in named if part.numel()]
        if not named:
            raise InputError("the bank is empty: no image has an embedding; expected at least one, encode images first")
        rows = cls(tuple(part for _, part in named), tuple(accumulate(len(part) for _, part in named)))
        lengths = torch.empty(len(rows), device=rows.device)
        for block in rows.blocks(max(1, _NUMBERS // rows.dim)):
            lengths[block.start : block.start + len(block.x)] = torch.linalg.vector_norm(block.x, dim=1)
        unsound = ((lengths == 0) | ~lengths.isfinite()).nonzero()[:, 0]
        if len(unsound):
            first = int(unsound[0])
            place = bisect_right(rows.ends, first)
            what = "is zero" if lengths[first] == 0 else "holds NaN, infinity or numbers too large to square"
            raise InputError(
                f"{named[place][0]}: row {first - rows._begin(place)} {what} (one of {len(unsound)} such rows), "
                "expected vectors that have a direction; encode these images again or leave them out"
            )
        if (lengths - 1).abs().max() <= UNIT:
            return rows
        return replace(rows, scale=lengths.reciprocal_())

    def __len__(self) -> int:
        return self.ends[-1] if self.index is None else len(self.index)

    @property
    def dim(self) -> int:
        return self.parts[0].shape[1]

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    def blocks(self, size: int) -> Iterator[Block]:
        """All rows in order, `size` at a time. What lies in one float32 tensor as it is asked for is not copied."""
        buffer: Tensor | None = None
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            if self.index is None:
                first, last, chosen = start, stop, None
            else:
                chosen = self.index[start:stop]
                first, last = int(chosen[0]), int(chosen[-1]) + 1
                chosen = None if last - first == stop - start else chosen
            scale = None if self.scale is None else self.scale[slice(first, last) if chosen is None else chosen]
            place = bisect_right(self.ends, first)
            part, begin = self.parts[place], self._begin(place)
            if chosen is None and last <= self.ends[place] and part.dtype == torch.float32:
                yield Block(start, part[first - begin : last - begin], scale)
                continue
            if buffer is None:
                buffer = torch.empty(min(size, len(self)), self.dim, device=self.device)
            self._read(first, last, chosen, buffer[: stop - start])
            yield Block(start, buffer[: stop - start], scale)

    def take(self, rows: Tensor) -> Tensor:
        """Copy some unit rows: ascending rows (m,) -> (m, d) float32."""
        chosen = rows if self.index is None else self.index[rows]
        out = torch.empty(len(chosen), self.dim, device=self.device)
        if len(chosen):
            self._read(int(chosen[0]), int(chosen[-1]) + 1, chosen, out)
        return out if self.scale is None else out.mul_(self.scale[chosen, None])

    def select(self, rows: Tensor) -> Rows:
        """The ascending rows (m,) of these, as views."""
        return replace(self, index=rows if self.index is None else self.index[rows])

    def to(self, device: torch.device | str) -> Rows:
        """All rows as one tensor on a device: there has to be room for it."""
        out = torch.empty(len(self), self.dim, device=device)
        for block in self.blocks(max(1, _NUMBERS // self.dim)):
            x = block.x if block.scale is None else block.x * block.scale[:, None]
            out[block.start : block.start + len(x)] = x.to(device)
        return Rows((out,), (len(out),))

    def _begin(self, place: int) -> int:
        return self.ends[place - 1] if place else 0

    def _read(self, first: int, last: int, chosen: Tensor | None, out: Tensor) -> None:
        """Copy the parts' rows first, ..., last - 1, or those `chosen` of them in ascending order, to `out`."""
        filled = 0
        while filled < len(out):
            at = first + filled if chosen is None else int(chosen[filled])
            place = bisect_right(self.ends, at)
            part, begin, end = self.parts[place], self._begin(place), self.ends[place]
            if chosen is None:
                rows = part[at - begin : last - begin]
            else:
                rows = part[chosen[filled : int(torch.searchsorted(chosen, end))] - begin]
            out[filled : filled + len(rows)] = rows
            filled += len(rows)


def mapped_parts(store: FeatureStore) -> list[tuple[str, Tensor]]:
    """The embeddings of a store's shards, with their files' names, in the order of `store.hashes`; they stay on disk.

    Raises:
        InputError: a shard that was damaged or removed since the store was opened.
    """
    parts = []
    for number, planned in enumerate(store.plan.shards):
        if number in store.pending or not planned:
            continue
        path = shard_path(store.path, number)
        try:
            with safe_open(path, framework="pt") as file:
                parts.append((str(path), file.get_tensor("embedding")))  # maps the file, reads nothing yet
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{path}: damaged ({error}); delete it and run `crossgraft features` again") from error
    return parts


def as_tensor(array: Tensor | np.ndarray, name: str) -> Tensor:
    """A tensor as it is, and an array or memory map as a tensor over the same memory.

    Raises:
        InputError: something else, or an array that no tensor can lie over.
    """
    if isinstance(array, Tensor):
        return array
    if not isinstance(array, np.ndarray):
        raise InputError(f"{name}: expected a tensor or a NumPy array, found {type(array).__name__}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing here writes to it
        try:
            return torch.from_numpy(array)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}: {array.dtype} of strides {array.strides} cannot be read ({error})") from error


def unit(vectors: Tensor) -> Tensor:
    """Vectors (n, d), none of length 0, as unit vectors; those that are unit already stay as they are."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return torch.where((lengths - 1).abs() <= UNIT, vectors, vectors / lengths)
