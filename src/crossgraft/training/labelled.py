"""Images of a bank by what their files, or the folders that they are in, are called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_WORD = re.compile(r"[^\W\d_]+")


class Labels:
    """Finds images by name: `red_apple-2.webp`, and all in a folder `apple`, show an apple; `apple_pie.png` does not.

    Args:
        files: each image's path and row in the bank.
    """

    def __init__(self, files: Iterable[tuple[Path, int]]) -> None:
        self._names = [(words(name), row) for path, row in files for name in (path.stem, path.parent.name)]

    def rows(self, thing: str, count: int) -> list[int]:
        """`count` rows of images whose name ends with the thing's words, those that say the least besides first.

        Fewer images than that come again; [] if there are none.
        """
        asked = words(thing)
        fitting = [(len(name), row) for name, row in self._names if asked and name[-len(asked) :] == asked]
        found = list(dict.fromkeys(row for _, row in sorted(fitting)))
        return [found[place % len(found)] for place in range(count)] if found else []


def words(name: str) -> list[str]:
    """In small letters, without a plural's s and without numbers."""
    return [word.removesuffix("s") for word in _WORD.findall(name.lower())]
