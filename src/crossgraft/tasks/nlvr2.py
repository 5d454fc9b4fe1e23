"""NLVR2 (Suhr et al. 2019): is a sentence true of two photos? Files of github.com/lil-lab/nlvr, folder nlvr2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from crossgraft.errors import InputError
from crossgraft.tasks.base import Decoding, Example
from crossgraft.tasks.files import Paths, Row, by_id, check_answers, listed, read_lines, write_result_lines
from crossgraft.tasks.images import ImageFolders
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import FilesTask, SplitFiles
from crossgraft.tasks.truth import TRUE_OR_FALSE, consistency, label_of, targets_of


@dataclass(frozen=True, kw_only=True)
class Nlvr2Files(SplitFiles):
    """Official files of a split.

    Attributes:
        sentences: train.json, dev.json, test1.json, or several: JSON lines, in spite of the name.
    """

    sentences: Paths


@register_task("nlvr2")
@dataclass(frozen=True, kw_only=True)
class Nlvr2(FilesTask):
    """True or false, of two photos; photos may lie in one folder, or in the numbered folders of the download."""

    splits: dict[str, Nlvr2Files]
    prefix: str = "nlvr: "
    question_length: int | None = 20

    metric: ClassVar[str] = "accuracy"

    @property
    def decoding(self) -> Decoding:
        """The likelier of "true" and "false"."""
        return Decoding(choices=TRUE_OR_FALSE)

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are identifiers such as "dev-850-0-0"."""
        files = self._files(self.splits, split)
        images = self._images(files)
        rows = by_id([row for path in listed(files.sentences) for row in read_lines(path)], "identifier")
        examples = []
        for key, row in self._limited(rows, files.limit):
            label = label_of(row, "label", TRUE_OR_FALSE)
            examples.append(Example(key, _pair(key, row, images), row.text("sentence"), targets_of(label), label))
        images.check()
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Accuracy, and consistency: the share of sentences that are judged rightly with all of their photo pairs."""
        return consistency(examples, answers, _sentence)

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """Lines of "identifier,True" or "identifier,False" without a header, as eval/metrics.py reads them."""
        check_answers(examples, answers)
        pairs = zip(examples, answers, strict=True)
        write_result_lines(path, (f"{example.id},{answer.strip().capitalize()}" for example, answer in pairs))


def _sentence(identifier: str) -> str:
    split, photos, _, sentence = identifier.split("-")
    return f"{split}-{photos}-{sentence}"


def _pair(identifier: str, row: Row, images: ImageFolders) -> tuple[Path, Path]:
    parts = identifier.split("-")
    if len(parts) != 4:
        raise InputError(f"{row.where}: 'identifier' must be like dev-850-0-0, found {identifier!r}")
    stem, split = "-".join(parts[:3]), parts[0]
    folders = ["", f"{split}/"]
    if "directory" in row.values:  # train photos lie in 100 numbered folders
        number = row.identifier("directory")
        folders += [f"{number}/", f"{split}/{number}/", f"images/{split}/{number}/"]
    left, right = ([f"{folder}{stem}-img{side}.png" for folder in folders] for side in (0, 1))
    return images.path(*left), images.path(*right)
