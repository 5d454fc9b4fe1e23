"""Finding the image files of annotations: one listing a folder, not one look at the disk for each of 100,000 images."""

from __future__ import annotations

import os
import re
from pathlib import Path

from crossgraft.errors import InputError
from crossgraft.tasks.files import Paths, listed

_LAST_NUMBER = re.compile(r"(\d+)\.[^.]+$")


class ImageFolders:
    """The images of a split: `path` looks one up, `check` complains about all that were not found.

    Args:
        folders: where images lie.
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

        Args:
            names: file names in order of preference.
            number: if no name is there, a file whose name ends in this number (COCO's image ids) will do.

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
            "add the files, or set 'images' to their folder"
        )

    def _search(self, names: tuple[str, ...], number: int | None) -> Path | None:
        for folder in self._folders:
            for name in names:
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
            matches = map(_LAST_NUMBER.search, names := sorted(self._listing(folder)))
            self._numbers[folder] = {
                int(match.group(1)): name for match, name in zip(matches, names, strict=True) if match is not None
            }
        return self._numbers[folder]
