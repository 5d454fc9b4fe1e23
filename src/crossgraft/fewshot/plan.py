"""What each seed of a few-shot experiment draws: supports, validation images, and photos left to test on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from crossgraft.errors import InputError
from crossgraft.fewshot.data import ImageData, ImageSplit, TestImages, hold_out, sample_support
from crossgraft.fewshot.protocol import MIN4, Protocol, validation_indices

Shots = int | Literal["all"]


@dataclass(frozen=True)
class SeedPlan:
    """What one seed draws: supports and validation images by number of shots, and test images where the data has none
    of its own."""

    supports: dict[Shots, ImageSplit]
    validation: dict[Shots, ImageSplit | None]
    test: TestImages | None

    def images(self) -> Iterable[Path]:
        """All of them, some more than once."""
        for split in (*self.supports.values(), *self.validation.values(), self.test):
            yield from split.paths if split is not None else ()


def make_plan(
    data: ImageData, shots: Sequence[Shots], seeds: Sequence[int], protocol: Protocol, other_tests: bool
) -> dict[int, SeedPlan]:
    """seed -> what it draws from the data; `other_tests`: whether there are test sets beside the data's own.

    Raises:
        InputError: the data has too few images for what is asked.
    """
    n = len(data.classes)
    plans = {}
    for seed in seeds:
        supports = {k: data.train.take(sample_support(data.train, n, k, seed, classes=data.classes)) for k in shots}
        val, test = data.val, None
        needs_val = val is None and protocol == "min4"
        if needs_val and "all" in shots:
            raise InputError("shots all leaves nothing to validate on; take fewer shots, protocol none, or a val split")
        if needs_val or (data.test is None and "all" not in shots):
            largest = max((k for k in shots if k != "all"), default=0)
            wanted = min(MIN4, largest) if needs_val else 0
            try:
                held = hold_out(data.train, n, shots, seed, val=wanted, classes=data.classes)
            except InputError:
                if needs_val or not other_tests:
                    raise
            else:
                val = data.train.take(held.val) if wanted else val
                test = data.train.take(held.test).sealed(data.classes) if data.test is None else None
        validation: dict[Shots, ImageSplit | None] = {
            k: None if val is None or protocol == "none" else val.take(validation_indices(val, n, k, seed, protocol))
            for k in shots
        }
        plans[seed] = SeedPlan(supports, validation, test)
    return plans


def without(data: ImageData, bad: set[Path]) -> ImageData:
    """The data without images that could not be read; the draw is repeated over the rest."""
    if not bad:
        return data

    def keep(split: ImageSplit | None) -> ImageSplit | None:
        return None if split is None else split.take([i for i, path in enumerate(split.paths) if path not in bad])

    train = keep(data.train)
    assert train is not None
    return replace(data, train=train, val=keep(data.val))
