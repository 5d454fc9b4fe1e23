"""Images of a bank by what their files, or the folders that they are in, are called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from crossgraft.tasks.nouns import name_words


class Labels:
    """Finds images by name: `red_apple-2.webp`, and all in a folder `apple`, show an apple; `apple_pie.png` does not.

    Args:
        files: each image's path and row in the bank.
    """

    def __init__(self, files: Iterable[tuple[Path, int]]) -> None:
        self._names = [(name_words(name), row) for path, row in files for name in (path.stem, path.parent.name)]

    def rows(self, thing: str, count: int) -> list[int]:
        """`count` rows of images whose name ends with the thing's words, those that say the least besides first.

        Images that are called just so are shown alone, if there are any. Fewer images than asked for come again; [] if
        there are none.
        """
        asked = name_words(thing)
        fitting = [(len(name) - len(asked), row) for name, row in self._names if asked and name[-len(asked) :] == asked]
        exact = [one for one in fitting if one[0] == 0]
        found = list(dict.fromkeys(row for _, row in sorted(exact or fitting)))
        return [found[place % len(found)] for place in range(count)] if found else []
