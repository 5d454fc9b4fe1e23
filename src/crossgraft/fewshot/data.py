"""Labelled images for few-shot learning: loading, checking, drawing the support.

Everything here works on paths and labels; no image is opened. The same photo under two paths is found later, by hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from crossgraft.encoders.prompts import prompt_name
from crossgraft.errors import InputError
from crossgraft.fewshot.data_formats import PARTS, Listing, name_list, read_listing
from crossgraft.fewshot.sealed import SealedLabels


@dataclass(frozen=True)
class ImageSplit:
    """Images and their labels: `paths[i]` shows class `labels[i]`, a row of `ImageData.classes`."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int] | np.ndarray) -> ImageSplit:
        """The images at these indices, in this order."""
        return ImageSplit(tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices))

    def sealed(self, classes: Sequence[str]) -> TestImages:
        """These images as a test set: their labels, now class names, only score."""
        return TestImages(self.paths, SealedLabels(np.array(classes)[list(self.labels)]))


@dataclass(frozen=True)
class TestImages:
    """Test images, and the class names they show, sealed."""

    __test__ = False  # no test case, whatever pytest thinks of the name

    paths: tuple[Path, ...]
    labels: SealedLabels

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int] | np.ndarray) -> TestImages:
        """The images at these indices, in this order."""
        return TestImages(tuple(self.paths[i] for i in indices), self.labels.take(indices))


@dataclass(frozen=True)
class ImageData:
    """A classification data set.

    Attributes:
        name: a short name for tables.
        classes: class names as the data spells them (`prompt_name` turns one into prompt text).
        train, val, test: the images; val and test are None where the data has none.
        source: kind and place of the data.
        fingerprint: SHA-256 (hex) over classes, relative paths and labels; neither the place of the data nor the order
            in which images are listed changes it.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSplit
    val: ImageSplit | None
    test: TestImages | None
    source: str
    fingerprint: str


class HeldOut(NamedTuple):
    """Indices (int64) of the images that no support of the seed holds, grouped by class."""

    val: np.ndarray
    test: np.ndarray


def load_data(data: Path | str, *, split: Path | str | None = None, root: Path | str | None = None) -> ImageData:
    """Read a data set to train on.

    Args:
        data: an image folder (a folder per class, or train/, val/, test/ with a folder per class in each), a CoOp split
            file (.json), a CSV (.csv, .tsv), or, with `split`, the folder that the split file's paths start from.
        split: a split file or CSV whose images lie in the folder `data`.
        root: the folder that the paths in a split file or CSV start from, if it is not the file's own folder.

    Raises:
        InputError: nothing readable there, fewer than two classes, a class without training images, images that are
            missing, or one image in two classes or two splits. The message says which, and what to do.
    """
    listing = read_listing(Path(data), _path(split), _path(root))
    parts = _checked_parts(listing, listing.parts)
    train = parts.get("train")
    if not train:
        raise InputError(f'{listing.where}: no training image; expected images under "train"')
    _check_spelling(listing)
    trained = set(train.values())
    for part in PARTS[1:]:
        lacking = sorted(set(parts.get(part, {}).values()) - trained)
        if lacking:
            raise InputError(
                f"{listing.where}: classes in {part} that training lacks: {name_list(lacking)}; "
                f"known classes: {name_list(sorted(trained))}"
            )
    if len(trained) < 2:
        raise InputError(
            f"{listing.where}: only one class, {name_list(trained)}; expected at least two "
            "(if the class folders lie one level deeper, give that folder)"
        )
    labels = {name: i for i, name in enumerate(listing.classes)}
    return _assemble(listing, labels, listing.classes, parts)


def load_test_data(
    data: Path | str, classes: Sequence[str], *, split: Path | str | None = None, root: Path | str | None = None
) -> ImageData:
    """Read another data set as a test set for a classifier of `classes`.

    Its test split is taken where it has one, else all its images. Classes are matched by name, whatever the case, and
    with underscores as spaces; it may lack some of them. The result has the classes of training, its images under
    `test`, an empty `train` and no `val`.

    Args:
        data, split, root: as in `load_data`.
        classes: the classes of training, in the order of their labels.

    Raises:
        InputError: as in `load_data`, or a class that training lacks.
    """
    listing = read_listing(Path(data), _path(split), _path(root))
    # Only what is tested on has to be there: a split file's training images may be absent.
    chosen = listing.parts.get("test") or [image for part in listing.parts.values() for image in part]
    images = _checked_parts(listing, {"test": chosen})["test"]
    if not images:
        raise InputError(f"{listing.where}: no image to test on")
    _check_spelling(listing)
    known = {_match_key(name): i for i, name in enumerate(classes)}
    lacking = sorted({name for name in images.values() if _match_key(name) not in known})
    if lacking:
        raise InputError(
            f"{listing.where}: classes that training lacks: {name_list(lacking)}; known classes: {name_list(classes)}; "
            "rename or remove them (classes are matched by name)"
        )
    labels = {name: known[_match_key(name)] for name in set(images.values())}
    return _assemble(listing, labels, tuple(classes), {"test": images})


def sample_support(
    split: ImageSplit, n_classes: int, shots: int | Literal["all"], seed: int, *, classes: Sequence[str] = ()
) -> np.ndarray:
    """Draw `shots` images per class.

    The draw depends on the seed, the labels and the paths, not on the order in which the split lists them.
    Supports of one seed are nested: the first K images of a class are the same for every number of shots.

    Args:
        split: the training images.
        n_classes: number of classes N; labels are 0 .. N - 1.
        shots: images per class, or "all".
        seed: any integer >= 0.
        classes: class names, for messages.

    Returns:
        indices into the split, int64, (N * shots,) or (len(split),), grouped by class.

    Raises:
        InputError: fewer than one shot, or a class has fewer images than that.
    """
    draws = _draw(split, n_classes, seed)
    wanted = 1 if shots == "all" else _positive(shots)
    _check_counts(draws, wanted, f"{wanted} shots", classes, "take fewer shots, add photos, or use --shots all")
    return np.concatenate([draw if shots == "all" else draw[:wanted] for draw in draws])


def hold_out(
    split: ImageSplit,
    n_classes: int,
    shots: Sequence[int | Literal["all"]],
    seed: int,
    *,
    val: int = 0,
    classes: Sequence[str] = (),
) -> HeldOut:
    """Test images for data without a test split: all that lie outside the largest support of the seed.

    So each number of shots is tested on the same images. With `val`, that many images per class come before them.

    Args:
        split, n_classes, seed, classes: as in `sample_support`.
        shots: every number of shots that will be drawn; "all" is refused, as it leaves nothing to test on.
        val: validation images per class.

    Raises:
        InputError: a class has fewer than max(shots) + val + 1 images.
    """
    if not shots or "all" in shots:
        raise InputError("shots all leaves no image to test on; take fewer shots, or give test images of their own")
    largest = max(_positive(s) for s in shots)
    draws = _draw(split, n_classes, seed)
    reason = f"{largest} shots, {val} for validation and 1 to test on" if val else f"{largest} shots and 1 to test on"
    hint = "take fewer shots, add photos, or give test images of their own (a test split, or --test)"
    _check_counts(draws, largest + val + 1, reason, classes, hint)
    return HeldOut(
        val=np.concatenate([draw[largest : largest + val] for draw in draws]),
        test=np.concatenate([draw[largest + val :] for draw in draws]),
    )


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _match_key(name: str) -> str:
    return unicodedata.normalize("NFC", prompt_name(name)).casefold()


def _check_spelling(listing: Listing) -> None:
    """Two spellings of one name would become two classes with the same prompt."""
    spellings: dict[str, str] = {}
    for name in listing.classes:
        other = spellings.setdefault(_match_key(name), name)
        if other != name:
            raise InputError(
                f"{listing.where}: classes {other!r} and {name!r} differ only in case or spaces; use one name"
            )


def _checked_parts(listing: Listing, chosen: Mapping[str, list[tuple[str, str]]]) -> dict[str, dict[str, str]]:
    """The chosen images: part -> {path: class name}, each path once, in listed order; every file exists."""
    parts: dict[str, dict[str, str]] = {}
    for part, images in chosen.items():
        parts[part] = {}
        for path, name in images:
            if parts[part].setdefault(path, name) != name:
                raise InputError(
                    f"{listing.where}: {path!r} is {parts[part][path]!r} and {name!r}; expected one class per image"
                )
    for a, b in combinations(parts, 2):
        shared = [path for path in parts[a] if path in parts[b]]
        if shared:
            raise InputError(
                f"{listing.where}: {len(shared)} images are both in {a} and in {b}: {name_list(shared, 3)}; "
                "list each image once, or results would be measured on seen images"
            )
    listed = [path for images in parts.values() for path in images]
    missing = [path for path in listed if not os.path.isfile(listing.root / path)]
    if missing:
        raise InputError(
            f"{listing.where}: {len(missing)} of {len(listed)} images are missing below {listing.root}: "
            f"{name_list(missing, 3)}; give the folder that the paths start from as the image root"
        )
    return parts


def _assemble(
    listing: Listing, labels: Mapping[str, int], classes: tuple[str, ...], parts: Mapping[str, Mapping[str, str]]
) -> ImageData:
    splits = {
        part: ImageSplit(tuple(listing.root / p for p in images), tuple(labels[name] for name in images.values()))
        for part, images in parts.items()
        if images
    }
    content = {
        part: sorted((p, labels[name]) for p, name in images.items()) for part, images in parts.items() if images
    }
    digest = hashlib.sha256(json.dumps([list(classes), content], sort_keys=True).encode("ascii"))
    return ImageData(
        name=listing.name,
        classes=classes,
        train=splits.get("train", ImageSplit((), ())),
        val=splits.get("val"),
        test=splits["test"].sealed(classes) if "test" in splits else None,
        source=listing.source,
        fingerprint=digest.hexdigest(),
    )


def _positive(shots: int | str) -> int:
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
        raise InputError(f'shots is {shots!r}; expected an integer of at least 1 or "all"')
    return shots


def _draw(split: ImageSplit, n_classes: int, seed: int) -> list[np.ndarray]:
    """For each class the indices of its images in the order in which they are drawn."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is {seed!r}; expected an integer of at least 0")
    members: list[list[int]] = [[] for _ in range(n_classes)]
    for i, label in enumerate(split.labels):
        if not 0 <= label < n_classes:
            raise InputError(f"{split.paths[i]}: label {label}; expected 0 to {n_classes - 1}")
        members[label].append(i)
    draws = []
    for label, indices in enumerate(members):
        indices.sort(key=lambda i: split.paths[i].as_posix())
        # A generator per class: the draw of one class does not depend on how many images the others have.
        order = np.random.default_rng([seed, label]).permutation(len(indices))
        draws.append(np.array(indices, dtype=np.int64)[order])
    return draws


def _check_counts(draws: list[np.ndarray], least: int, reason: str, classes: Sequence[str], hint: str) -> None:
    few = [f"{classes[i] if classes else i} ({len(d)})" for i, d in enumerate(draws) if len(d) < least]
    if few:
        raise InputError(
            f"{len(few)} of {len(draws)} classes have too few images for {reason}: {name_list(few)}; {hint}"
        )
