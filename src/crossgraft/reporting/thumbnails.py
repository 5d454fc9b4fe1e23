"""Small pictures inside a page: each file once, as a data URI, up to a limit."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from crossgraft.encoders.images import UnreadableImage, read_draft
from crossgraft.reporting.markup import Markup, escape, join, shorten, tag

SIZE = 88
"""Pixels of the longer side."""
LIMIT = 600
"""Different pictures on a page: about 1.5 MB."""


@dataclass(frozen=True)
class Picture:
    """An image of a run: its path, a name to show, and the first digits of its file's SHA-256."""

    path: Path
    name: str
    sha256: str


@dataclass
class Thumbnails:
    """The pictures of one page. `missing` and `left_out` count those that it names instead of showing them."""

    limit: int = LIMIT
    _pixels: dict[Picture, str | None] = field(default_factory=dict)
    _number: dict[Picture, int] = field(default_factory=dict)
    _left_out: set[Picture] = field(default_factory=set)

    @property
    def shown(self) -> int:
        return sum(uri is not None for uri in self._pixels.values())

    @property
    def missing(self) -> int:
        return sum(uri is None for uri in self._pixels.values())

    @property
    def left_out(self) -> int:
        return len(self._left_out)

    def __call__(self, picture: Picture, says: str) -> Markup:
        """The picture, described to those who cannot see it by `says`; or its file's name, where it cannot be shown."""
        if picture not in self._pixels and self.shown >= self.limit:
            self._left_out.add(picture)
            return _placeholder(picture, says, "not shown, to keep the page small")
        if picture not in self._pixels:
            self._number[picture] = len(self._pixels)
            self._pixels[picture] = _data_uri(picture)
        if self._pixels[picture] is None:
            return _placeholder(picture, says, "moved, deleted or changed since the run")
        described = f"{says}: {picture.name}"
        return tag(
            "svg",
            tag("title", described),
            tag("use", href=f"#p{self._number[picture]}"),
            class_="thumb",
            viewBox=f"0 0 {SIZE} {SIZE}",
            role="img",
            aria_label=described,
        )

    def definitions(self) -> Markup:
        """The pictures themselves, once, for all places that show them."""
        images = [
            tag("image", id=f"p{self._number[picture]}", width=SIZE, height=SIZE, href=Markup(uri))
            for picture, uri in self._pixels.items()
            if uri is not None
        ]
        return tag("svg", tag("defs", join(images, "\n")), width=0, height=0, class_="defs", aria_hidden="true")


def _placeholder(picture: Picture, says: str, why: str) -> Markup:
    name = picture.name.rsplit("/", 1)[-1]
    return tag(
        "span", escape(shorten(name, 40)), class_="thumb none", title=f"{says}: {picture.name} ({why})", role="note"
    )


def _data_uri(picture: Picture) -> str | None:
    """None for a file that is gone, cannot be read, or is no longer the one that the run saw."""
    try:
        if not picture.path.is_file():  # reading a pipe would wait for ever
            return None
        content = picture.path.read_bytes()
        if not hashlib.sha256(content).hexdigest().startswith(picture.sha256):
            return None
        image = Image.fromarray(read_draft(content, 2 * SIZE).pixels)
    except (OSError, ValueError, UnreadableImage):  # ValueError: a path with a null byte
        return None
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
