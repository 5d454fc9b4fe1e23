"""People's own data: questions in a CSV file, captions in JSON or CSV, and a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.tasks.base import Example
from crossgraft.tasks.caption_task import Captioned, CaptionTask
from crossgraft.tasks.coco_captions import read_coco
from crossgraft.tasks.files import (
    Row,
    by_id,
    check_answers,
    read_list_or_lines,
    read_table,
    references,
    write_result,
)
from crossgraft.tasks.images import ImageFolders
from crossgraft.tasks.metrics.exact import percent
from crossgraft.tasks.metrics.vqa_accuracy import normalise
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import OneFileTask, split_ids


@dataclass(frozen=True, kw_only=True)
class OwnFile(OneFileTask):
    """One file of one's own.

    Attributes:
        file: the file. Its images are looked for in `images`, or beside it.
    """

    file: Path

    def _own_images(self) -> ImageFolders:
        return ImageFolders(self.images or self.file.parent, self.name)


@register_task("vqa-csv")
@dataclass(frozen=True, kw_only=True)
class VqaCsv(OwnFile):
    """Questions about one's own images: a CSV file with the columns image, question, answer, and perhaps split and id.

    Several right answers stand between "|". An empty answer means that there is none: then no row may have one.
    """

    prefix: str = "vqa: "
    question_length: int | None = None  # nobody expects one's own questions to be cut

    metric: ClassVar[str] = "accuracy"

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are those of the column id, or line numbers."""
        table = read_table(self.file, ("image", "question", "answer"))
        rows = by_id(table, lambda row: row.text("id") if "id" in row.values else str(row.number))
        images = self._own_images()
        examples = []
        for key, row in split_ids(self, rows, split, {key: row.text("image") for key, row in rows.items()}):
            answers = tuple(dict.fromkeys(part.strip() for part in row.get("answer", str).split("|") if part.strip()))
            targets = tuple((answer, 1.0) for answer in answers)
            image = row.text("image")
            examples.append(
                Example(
                    key,
                    (images.path(image),),
                    row.text("question"),
                    targets,
                    answers or None,
                    about={"image": image},
                )
            )
        unlabelled = [example for example in examples if example.reference is None]
        if 0 < len(unlabelled) < len(examples):
            row = rows[unlabelled[0].id]
            raise InputError(
                f"{row.where}: 'answer' is empty, as in {len(unlabelled)} of {len(examples)} rows of split {split!r}; "
                "fill them in, or take the rows out"
            )
        images.check()
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """The share of answers that are one of the right ones, both in the normal form of VQA."""
        truths: list[tuple[str, ...]] = references(examples, answers)
        pairs = zip(answers, truths, strict=True)
        return {"accuracy": percent([normalise(answer) in map(normalise, truth) for answer, truth in pairs])}

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """[{"id": "...", "image": "...", "question": "...", "answer": "..."}, ...]; images as the file names them."""
        check_answers(examples, answers)
        write_result(
            path,
            [
                {"id": example.id, **(example.about or {}), "question": example.text, "answer": answer}
                for example, answer in zip(examples, answers, strict=True)
            ],
        )


@dataclass(frozen=True, kw_only=True)
class OwnCaptions(CaptionTask, OwnFile):
    """Captions of one's own images."""

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are the images as the file names them."""
        rows, captions = self._read()
        images = self._own_images()
        chosen = split_ids(self, rows, split, {key: key for key in rows})
        found = [Captioned(key, (images.path(key),), captions[key], about={"image": key}) for key, _ in chosen]
        without = [thing.id for thing in found if not thing.captions]
        if 0 < len(without) < len(found):
            raise InputError(
                f"{rows[without[0]].where}: no caption, as in {len(without)} of {len(found)} images of split "
                f"{split!r}; write one, or take the images out"
            )
        images.check()
        return self._examples(found, split)

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """[{"image": "...", "caption": "..."}, ...], which `caption-json` reads, too."""
        described = self._described(examples, answers)
        write_result(path, [{**about, "caption": answer} for about, answer in described])

    def _read(self) -> tuple[dict[str, Row], dict[str, tuple[str, ...]]]:
        raise NotImplementedError


@register_task("caption-json")
@dataclass(frozen=True, kw_only=True)
class CaptionJson(OwnCaptions):
    """A JSON list, or JSON lines, of {"image", "captions": [...] or "caption", perhaps "split"}; or COCO's layout."""

    def _read(self) -> tuple[dict[str, Row], dict[str, tuple[str, ...]]]:
        if is_coco(self.file):
            images, texts = read_coco(self.file)
            by_name = {key: row.text("file_name") for key, row in images.items()}
            rows = by_id(images.values(), lambda row: row.text("file_name"))
            return rows, {name: texts.get(key, ()) for key, name in by_name.items()}
        rows = by_id(read_list_or_lines(self.file), lambda row: row.text("image"))
        return rows, {key: captions_of(row) for key, row in rows.items()}


@register_task("caption-csv")
@dataclass(frozen=True, kw_only=True)
class CaptionCsv(OwnCaptions):
    """A CSV file with the columns image and caption, and perhaps split; an image has as many rows as captions."""

    def _read(self) -> tuple[dict[str, Row], dict[str, tuple[str, ...]]]:
        rows: dict[str, Row] = {}
        captions: dict[str, tuple[str, ...]] = {}
        for row in read_table(self.file, ("image", "caption")):
            image, caption = row.text("image"), row.get("caption", str).strip()
            first = rows.setdefault(image, row)
            if first.values.get("split") != row.values.get("split"):
                raise InputError(f"{row.where}: image {image!r} has another split than in {first.place} {first.number}")
            captions[image] = captions.get(image, ()) + ((caption,) if caption else ())
        return rows, captions


def captions_of(row: Row) -> tuple[str, ...]:
    if "captions" in row.values:
        values = row.get("captions", list)
    elif "caption" in row.values:
        values = [row.get("caption", str)]
    else:
        raise InputError(
            f"{row.where}: 'captions' (a list) or 'caption' is missing; found: {', '.join(map(str, row.values))}"
        )
    if not all(isinstance(value, str) for value in values):
        raise InputError(f"{row.where}: 'captions' must be a list of texts, found {values!r:.60}")
    return tuple(value.strip() for value in values if value.strip())


def is_coco(path: Path) -> bool:
    """COCO's layout is one JSON object; so is a file of one JSON line, but without "images"."""
    try:
        content = read_json(path)
    except InputError:
        return False  # JSON lines, or something that the reader of JSON lines says more about
    return isinstance(content, dict) and "images" in content
