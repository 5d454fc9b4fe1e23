"""Captions of COCO and Flickr: the official captions_*.json, and Karpathy's dataset_*.json with its splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossgraft.errors import InputError
from crossgraft.tasks.base import Example, NoSuchSplit
from crossgraft.tasks.caption_task import Captioned, CaptionTask
from crossgraft.tasks.files import Row, by_id, read_part, rows_of, write_result
from crossgraft.tasks.images import ImageFolders
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import OneFileTask, SplitFiles, check_split


@dataclass(frozen=True, kw_only=True)
class CaptionFiles(SplitFiles):
    """Files of a split.

    Attributes:
        captions: captions_*.json, or image_info_*.json of an unlabelled split.
    """

    captions: Path


@register_task("coco-captions")
@dataclass(frozen=True, kw_only=True)
class CocoCaptions(CaptionTask, OneFileTask):
    """Describe a photo.

    Attributes:
        splits: official files, one a split; or
        karpathy: dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json, which states its splits.
        restval: the images of Karpathy's split "restval" belong to train, as is usual for COCO.
    """

    splits: dict[str, CaptionFiles] = field(default_factory=dict)
    karpathy: Path | None = None
    restval: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.splits) == (self.karpathy is not None):
            raise InputError("either 'splits' or 'karpathy' is needed, and not both")

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are image ids (Karpathy's "imgid" where there is no "cocoid")."""
        if self.karpathy is not None:
            check_split(split, self.name)
            images = self._images()
            found = self._of_karpathy(self.karpathy, images, split)
        else:
            files = self._files(self.splits, split)
            images = self._images(files)
            rows, captions = read_coco(files.captions, whole=True)
            found = [
                _captioned(key, images.path(row.text("file_name"), number=int(key)), captions.get(key, ()))
                for key, row in self._limited(rows, files.limit)
            ]
        images.check()
        return self._examples(found, split)

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """[{"image_id": 1, "caption": "..."}, ...], as the evaluation server takes it."""
        described = self._described(examples, answers)
        write_result(path, [{**about, "caption": answer} for about, answer in described])

    def _of_karpathy(self, path: Path, images: ImageFolders, split: str) -> list[Captioned]:
        content, rows = read_part(path, "images")
        if rows and "sentences" not in rows[0].values:
            layout = "the official COCO layout; name it in 'splits'" if "annotations" in content else "another layout"
            raise InputError(f"{path}: expected Karpathy's layout ('images' with 'sentences'), found {layout}")
        wanted = {split, "restval"} if split == "train" and self.restval else {split}
        kept = [row for row in rows if row.get("split", str) in wanted]
        if not kept:
            known = dict.fromkeys(row.get("split", str) for row in rows)
            raise NoSuchSplit(f"{path}: no image has the split {split!r}; there are: {', '.join(known) or 'no images'}")
        found = []
        # Ids must be unique in the whole file, not just in the split: the splits must not overlap.
        key = "cocoid" if "cocoid" in rows[0].values else "imgid"
        ids = {id(row): name for name, row in by_id(rows, key, whole=True).items()}
        for name, row in self._limited({ids[id(row)]: row for row in kept}, self.limits.get(split)):
            file = row.text("filename")
            folder = row.values.get("filepath")
            names = (f"{folder}/{file}", file) if folder else (file,)
            captions = tuple(
                part.text("raw") for part in rows_of(row.get("sentences", list), path, f"{file}, sentence")
            )
            if not captions:
                raise InputError(f"{row.where}: 'sentences' is empty; expected the captions of {file}")
            found.append(_captioned(name, images.path(*names), captions))
        return found


def _captioned(key: str, image: Path, captions: tuple[str, ...]) -> Captioned:
    return Captioned(key, (image,), captions, about={"image_id": int(key)})


def read_coco(path: Path, *, whole: bool = False) -> tuple[dict[str, Row], dict[str, tuple[str, ...]]]:
    """COCO's layout: rows of images by id, and the captions of each; none at all in a file without annotations.

    Args:
        path: the file.
        whole: ids of images must be whole numbers, as the evaluation server wants them, or text that is one.

    Raises:
        InputError: the layout is another; ids come twice, or are not as they must be; images without captions, or
            captions without their image.
    """
    content, rows = read_part(path, "images")
    images = by_id(rows, "id", whole=whole)
    if not images:
        raise InputError(f"{path}: 'images' is empty")
    if "annotations" not in content:
        return images, {}
    captions: dict[str, list[str]] = {}
    for row in by_id(rows_of(content["annotations"], path, "'annotations' entry"), "id").values():
        image = str(row.whole("image_id")) if whole else row.identifier("image_id")
        captions.setdefault(image, []).append(row.text("caption"))
    for problem, absent in (
        ("images have no caption", [key for key in images if key not in captions]),
        ("captioned images are not among 'images'", [key for key in captions if key not in images]),
    ):
        if absent:
            raise InputError(f"{path}: {len(absent)} {problem}, the first has the id {absent[0]}")
    return images, {key: tuple(texts) for key, texts in captions.items()}
