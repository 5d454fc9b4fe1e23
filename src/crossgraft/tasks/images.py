"""Finding the image files of annotations, or arrays of their features: one listing a folder, not one look at the disk
for each of 100,000 images."""

from __future__ import annotations

import os
import re
from pathlib import Path

from crossgraft.encoders.images import IMAGE_SUFFIXES
from crossgraft.errors import InputError
from crossgraft.tasks.files import Paths, listed

ARRAYS = (".npy", ".npz")
"""What names of arrays end in, the preferred first."""

# What begins with a dot is no image, but something that a system put beside one.
_NUMBERED = re.compile(r"(?!\.)(.*\D)?(?P<number>\d+)(?P<suffix>\.[^.]+)", re.DOTALL)


class ImageFolders:
    """The images of a split: `path` looks one up, `check` complains about all that were not found.

    In place of the image "1.jpg" a folder may hold an array of its features, "1.npy" or "1.npz".

    Args:
        folders: where images lie, searched in order.
        task: what messages call the task.

    Raises:
        InputError: no folder is given, or one is not there.
    """

    def __init__(self, folders: Paths | None, task: str) -> None:
        self._folders = listed(folders)
        self._task = task
        self._names: dict[Path, frozenset[str]] = {}
        self._numbers: dict[Path, dict[int, str]] = {}
        self._found: dict[str, Path] = {}
        self._missing: dict[str, None] = {}
        if not self._folders:
            raise InputError(f"task {task!r}: 'images' is needed: the folder of the image files")
        for folder in self._folders:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; task {task!r} looks for its image files there ('images')")

    def path(self, *names: str, number: int | None = None) -> Path:
        """The file called by the first of `names` (which may have folders in front) that exists, in the first folder.

        Within a folder, an array called like an image comes after the image files.

        Args:
            names: file names in order of preference.
            number: if no name is there, an image or array whose name ends in this number (COCO's image ids) will do.

        Returns:
            its path; where there is none, the path where it was expected, and `check` will say so.
        """
        if names[0] not in self._found:
            found = self._search(names, number)
            if found is None:
                self._missing[names[0]] = None
                found = self._folders[0] / names[0]
            self._found[names[0]] = found
        return self._found[names[0]]

    def check(self) -> None:
        """Raises:
        InputError: images were not found; says how many, and the first.
        """
        if not self._missing:
            return
        first = next(iter(self._missing))
        stem = Path(first).stem.lower()
        like = (name for folder in self._folders for name in self._listing(folder) if Path(name).stem.lower() == stem)
        near = "".join(f"there is {name!r}; " for name in sorted(like)[:1])
        raise InputError(
            f"task {self._task!r}: {len(self._missing)} of {len(self._found)} images are not in "
            f"{', '.join(map(str, self._folders))}, the first {first!r}; {near}"
            f"add the files (or arrays of their features: {', '.join(_arrays_of(first))}), "
            "or set 'images' to their folder"
        )

    def _search(self, names: tuple[str, ...], number: int | None) -> Path | None:
        arrays = [array for name in names for array in _arrays_of(name)]
        for folder in self._folders:
            for name in (*names, *arrays):
                path = folder / name
                if path.name in self._listing(path.parent):
                    return path
        if number is not None:
            for folder in self._folders:
                if number in self._numbered(folder):
                    return folder / self._numbered(folder)[number]
        return None

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except OSError:  # a folder of images that is not there: its images are missing
                self._names[folder] = frozenset()
        return self._names[folder]

    def _numbered(self, folder: Path) -> dict[int, str]:
        if folder not in self._numbers:
            matches = [match for match in map(_NUMBERED.fullmatch, sorted(self._listing(folder))) if match is not None]
            found: dict[int, str] = {}
            for match in sorted(matches, key=lambda match: match["suffix"] in ARRAYS):  # images before arrays
                if match["suffix"] in ARRAYS or match["suffix"].lower() in IMAGE_SUFFIXES:
                    found.setdefault(int(match["number"]), match.string)
            self._numbers[folder] = found
        return self._numbers[folder]


def _arrays_of(name: str) -> tuple[str, ...]:
    stem = os.path.splitext(name)[0]
    return tuple(stem + suffix for suffix in ARRAYS)
