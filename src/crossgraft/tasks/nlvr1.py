"""NLVR (Suhr et al. 2017): is a sentence true of a drawing of three boxes? Files of github.com/lil-lab/nlvr."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from crossgraft.encoders.images import UnreadableImage, read_image
from crossgraft.errors import InputError
from crossgraft.tasks.base import Decoding, Example
from crossgraft.tasks.files import Row, by_id, check_answers, read_lines, write_result_lines
from crossgraft.tasks.images import ARRAYS, ImageFolders
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import OneFileTask, SplitFiles, split_ids
from crossgraft.tasks.truth import TRUE_OR_FALSE, consistency, label_of, targets_of

# A drawing is 400 x 100: three boxes of 100 x 100 with grey bars of 50 x 100 between them. In eighths of its width:
_BOXES = ((0, 2), (3, 5), (6, 8))


@dataclass(frozen=True, kw_only=True)
class Nlvr1Files(SplitFiles):
    """Files of a split.

    Attributes:
        sentences: train.json, dev.json or test.json: JSON lines. Images are {directory}/{split}-{identifier}-0.png in
            `images`, or what "image" says.
    """

    sentences: Path


@register_task("nlvr1")
@dataclass(frozen=True, kw_only=True)
class Nlvr1(OneFileTask):
    """True or false, of a drawing of three boxes.

    Attributes:
        splits: official files; or
        index: one file of JSON lines {"identifier", "image", "sentence", "label"} for all splits. They are drawn by
            sentence (the identifier's first part): several drawings share one.
        boxes: a folder for the three boxes of each drawing, which are cut once: a task of three images. None: the
            drawing is one image.
    """

    splits: dict[str, Nlvr1Files] = field(default_factory=dict)
    index: Path | None = None
    boxes: Path | None = None
    prefix: str = "nlvr: "
    question_length: int | None = 20

    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.splits) == (self.index is not None):
            raise InputError("either 'splits' or 'index' is needed, and not both")

    @property
    def decoding(self) -> Decoding:
        """The likelier of "true" and "false"."""
        return Decoding(choices=TRUE_OR_FALSE)

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are identifiers such as "1572-0"."""
        if self.index is not None:
            rows = by_id(read_lines(self.index), "identifier")
            # The rows' own "split" is that of NLVR's files; these splits are by sentence.
            chosen = split_ids(self, rows, split, {key: key.split("-")[0] for key in rows}, column="")
            images = self._images(SplitFiles(images=self.images or self.index.parent))
        else:
            files = self._files(self.splits, split)
            chosen = self._limited(by_id(read_lines(files.sentences), "identifier"), files.limit)
            images = self._images(files)
        found = [(key, row, _picture(key, row, images)) for key, row in chosen]
        images.check()
        examples = []
        for key, row, picture in found:
            label = label_of(row, "label", TRUE_OR_FALSE)
            seen = (picture,) if self.boxes is None else _boxes_of(picture, self.boxes)
            examples.append(Example(key, seen, row.text("sentence"), targets_of(label), label))
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Accuracy, and consistency: the share of sentences that are judged rightly with all of their drawings."""
        return consistency(examples, answers, lambda identifier: identifier.split("-")[0])

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """Lines of "identifier,true" or "identifier,false" without a header."""
        check_answers(examples, answers)
        pairs = zip(examples, answers, strict=True)
        write_result_lines(path, (f"{example.id},{answer.strip().lower()}" for example, answer in pairs))


def _picture(identifier: str, row: Row, images: ImageFolders) -> Path:
    if "image" in row.values:
        return images.path(row.text("image"))
    stem = row.path.stem
    name = f"{stem}-{identifier}-0.png"  # each drawing comes in six orders of its boxes; 0 is the original
    number = row.identifier("directory")
    return images.path(f"{number}/{name}", name, f"images/{number}/{name}", f"{stem}/images/{number}/{name}")


def _boxes_of(picture: Path, folder: Path) -> tuple[Path, ...]:
    """The boxes of a drawing; the drawing itself where it cannot be decoded: who reads it finds out why, and leaves its
    example out."""
    if picture.suffix in ARRAYS:
        raise InputError(f"{picture}: an array cannot be cut into boxes; leave 'boxes' out, or name drawings")
    try:
        return cut_boxes(picture, folder)
    except UnreadableImage:
        return (picture,)


def cut_boxes(image: Path, folder: Path) -> tuple[Path, Path, Path]:
    """Cut a drawing into its three boxes, from left to right, as PNG files in `folder`; boxes already cut stay.

    Args:
        image: a drawing four times as wide as it is high (400 x 100).
        folder: made if it is not there.

    Raises:
        UnreadableImage: it cannot be decoded.
        InputError: it is not four times as wide as high (within a pixel).
    """
    # Drawings of the same name lie in different folders.
    mark = hashlib.sha256(os.fsencode(image.resolve())).hexdigest()[:12]
    paths = tuple(folder / f"{image.stem}-{mark}-box{place}.png" for place in range(3))
    try:
        changed = image.stat().st_mtime_ns
    except OSError as error:
        raise UnreadableImage(f"cannot be opened ({error.strerror})", str(image)) from None
    if not all(path.exists() and path.stat().st_mtime_ns >= changed for path in paths):
        picture = read_image(image)
        width, height = picture.size
        if abs(width - 4 * height) > 1:
            raise InputError(f"{image}: expected a drawing of three boxes, 400 x 100 pixels, found {width} x {height}")
        folder.mkdir(parents=True, exist_ok=True)
        for path, (left, right) in zip(paths, _BOXES, strict=True):
            partial = path.with_suffix(f".{os.getpid()}.tmp")
            picture.crop((width * left // 8, 0, width * right // 8, height)).save(partial, "PNG")
            os.replace(partial, path)
    return paths[0], paths[1], paths[2]
