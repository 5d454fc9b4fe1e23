"""Which entries belong to which split, and what all tasks that read files have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from crossgraft.errors import InputError
from crossgraft.registry import nearest
from crossgraft.tasks.base import NoSuchSplit, Task
from crossgraft.tasks.files import Paths, Row
from crossgraft.tasks.images import ImageFolders

Item = TypeVar("Item")
Files = TypeVar("Files", bound="SplitFiles")

SPLITS = ("train", "val", "test")
_SAME = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """The files of one split.

    Attributes:
        images: folder (or folders, searched in order) of its images; None: that of the task.
        limit: only that many entries, drawn with the task's seed; None: all.
    """

    images: Paths | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        _check_limit("limit", self.limit)


@dataclass(frozen=True, kw_only=True)
class Fractions:
    """How one file without stated splits is divided; what is left over 1 is not used."""

    train: float = 0.8
    val: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        parts = (self.train, self.val, self.test)
        if min(parts) < 0 or not 0 < sum(parts) <= 1 + 1e-9:
            raise InputError(f"train, val and test must not be negative and sum to at most 1, found {parts}")


@dataclass(frozen=True, kw_only=True)
class FilesTask(Task):
    """A task that reads annotation files and images.

    Attributes:
        images: folder (or folders) of the images of all splits that do not name their own.
        seed: of `limit`, and of splits that are drawn.
    """

    images: Paths | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in getattr(self, "splits", {}):
            if key not in SPLITS:
                raise InputError(
                    f"splits: unknown split {key!r}; {nearest(str(key), SPLITS)}known: {', '.join(SPLITS)}"
                )

    def _files(self, splits: Mapping[str, Files], split: str) -> Files:
        """The files of a split.

        Raises:
            NoSuchSplit: the recipe names none.
        """
        if split not in splits:
            raise NoSuchSplit(
                f"task {self.name!r} has no split {split!r} in the recipe ('splits'); "
                f"it has: {', '.join(splits) or 'none'}"
            )
        return splits[split]

    def _images(self, files: SplitFiles | None = None) -> ImageFolders:
        return ImageFolders((files.images if files else None) or self.images, self.name)

    def _limited(self, rows: Mapping[str, Item], limit: int | None) -> list[tuple[str, Item]]:
        """The first `limit` entries by id after a seeded shuffle, in the order of the file."""
        if limit is None or limit >= len(rows):
            return list(rows.items())
        kept = set(shuffled(rows, self.seed)[:limit])
        return [(key, row) for key, row in rows.items() if key in kept]


@dataclass(frozen=True, kw_only=True)
class OneFileTask(FilesTask):
    """A task of which all splits may stand in one file.

    Attributes:
        fractions: how a file that states no splits is divided, by image (or sentence), with the task's seed.
        limits: only that many entries of a split, such as {train: 1000}.
    """

    fractions: Fractions = field(default_factory=Fractions)
    limits: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, limit in self.limits.items():
            if key not in SPLITS:
                raise InputError(
                    f"limits: unknown split {key!r}; {nearest(str(key), SPLITS)}known: {', '.join(SPLITS)}"
                )
            _check_limit(f"limits.{key}", limit)

    def _part(self, groups: Mapping[str, str], split: str) -> list[str]:
        """Ids of a split that is drawn: all ids of a group fall into the same split.

        Args:
            groups: id -> group, such as an example's image.
            split: "train", "val" or "test".

        Raises:
            NoSuchSplit: nothing falls into the split.
        """
        check_split(split, self.name)
        drawn = drawn_splits(groups.values(), self.fractions, self.seed)
        ids = [key for key, group in groups.items() if drawn[group] == split]
        if not ids:
            raise NoSuchSplit(
                f"task {self.name!r}: split {split!r} is empty: {len(drawn)} images or sentences are too few for "
                f"fractions train {self.fractions.train}, val {self.fractions.val}, test {self.fractions.test}"
            )
        return ids


def _check_limit(name: str, limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"{name}: must be at least 1, found {limit}")


def check_split(split: str, task: str) -> None:
    """Raises:
    InputError: there is no split of that name.
    """
    if split not in SPLITS:
        raise InputError(f"task {task!r}: unknown split {split!r}; known: {', '.join(SPLITS)}")


def shuffled(keys: Iterable[str], seed: int) -> list[str]:
    """Keys in an order that only depends on them and the seed: the same on every machine, whatever else is there."""
    return sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest())


def drawn_splits(groups: Iterable[str], fractions: Fractions, seed: int) -> dict[str, str]:
    """Group -> split, drawn with a seed; with three groups or more no split of a fraction over 0 stays empty.

    Groups that the fractions leave over get the split "".
    """
    order = shuffled(groups, seed)
    found = dict.fromkeys(order, "")
    start = 0
    for split in ("test", "val"):
        share = getattr(fractions, split)
        count = min(max(round(share * len(order)), int(share > 0 and len(order) >= 3)), len(order) - start)
        found |= dict.fromkeys(order[start : start + count], split)
        start += count
    count = len(order) - start
    if fractions.train + fractions.val + fractions.test < 1 - 1e-9:
        count = min(count, round(fractions.train * len(order)))
    return found | dict.fromkeys(order[start : start + count], "train") if fractions.train else found


def stated_split(row: Row, key: str = "split") -> str:
    """The split that a row states; "validation" and "dev" are val.

    Raises:
        InputError: it states something else.
    """
    value = str(row.get(key, str)).strip().lower()
    value = _SAME.get(value, value)
    if value not in SPLITS:
        raise InputError(f"{row.where}: {key!r} must be train, val or test, found {row.values[key]!r:.40}")
    return value


def split_ids(
    task: OneFileTask, rows: Mapping[str, Row], split: str, group: Mapping[str, str], column: str = "split"
) -> list[tuple[str, Row]]:
    """Rows of a split of one file: as the rows state it, or drawn by `group` where none does; limited.

    Raises:
        NoSuchSplit: the split has no rows.
        InputError: some rows state a split and others do not.
    """
    check_split(split, task.name)
    stated = [key for key, row in rows.items() if str(row.values.get(column) or "").strip()]
    if stated and len(stated) < len(rows):
        first = next(row for row in rows.values() if not str(row.values.get(column) or "").strip())
        raise InputError(
            f"{first.where}: {column!r} is empty, but {len(stated)} other rows state one; fill in all or none"
        )
    if stated:
        ids: Sequence[str] = [key for key, row in rows.items() if stated_split(row, column) == split]
        if not ids:
            path = next(iter(rows.values())).path
            raise NoSuchSplit(f"{path}: no row has the split {split!r}; expected train, val or test in {column!r}")
    else:
        ids = task._part(group, split)
    return task._limited({key: rows[key] for key in ids}, task.limits.get(split))
