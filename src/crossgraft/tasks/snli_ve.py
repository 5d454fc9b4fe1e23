"""SNLI-VE (Xie et al. 2019): does a photo entail a sentence? Files of github.com/necla-ml/SNLI-VE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from crossgraft.errors import InputError
from crossgraft.tasks.base import Decoding, Example
from crossgraft.tasks.files import Row, by_id, check_answers, read_lines, references, write_result
from crossgraft.tasks.metrics.exact import by_kind
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import OneFileTask, SplitFiles, split_ids
from crossgraft.tasks.truth import label_of, targets_of

LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True, kw_only=True)
class SnliVeFiles(SplitFiles):
    """Official files of a split.

    Attributes:
        pairs: snli_ve_train.jsonl, snli_ve_dev.jsonl or snli_ve_test.jsonl.
    """

    pairs: Path


@register_task("snli-ve")
@dataclass(frozen=True, kw_only=True)
class SnliVe(OneFileTask):
    """Entailment, neutral or contradiction, of a Flickr30k photo and a hypothesis; the answer is that word.

    Attributes:
        splits: official files; or
        file: one such file for all splits, which are drawn by photo.
        premise: the caption (sentence1) stands before the hypothesis (sentence2). The task's authors forbid it.
    """

    splits: dict[str, SnliVeFiles] = field(default_factory=dict)
    file: Path | None = None
    premise: bool = False
    prefix: str = "snli-ve: "
    question_length: int | None = None

    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.splits) == (self.file is not None):
            raise InputError("either 'splits' or 'file' is needed, and not both")

    @property
    def decoding(self) -> Decoding:
        """The likeliest of the three words."""
        return Decoding(choices=LABELS)

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are pair ids. Pairs whose annotators disagreed ("-") are left out."""
        if self.file is not None:
            rows = _pairs(self.file)
            chosen = split_ids(self, rows, split, {key: row.identifier("Flickr30K_ID") for key, row in rows.items()})
            images = self._images()
        else:
            files = self._files(self.splits, split)
            chosen = self._limited(_pairs(files.pairs), files.limit)
            images = self._images(files)
        examples = []
        for key, row in chosen:
            text = row.text("sentence2")
            if self.premise:
                text = f"{row.get('sentence1', str).strip()} {text}".strip()
            label = label_of(row, "gold_label", LABELS)
            image = images.path(f"{row.identifier('Flickr30K_ID')}.jpg")
            examples.append(Example(key, (image,), text, targets_of(label), label))
        images.check()
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Accuracy, overall and by class ("accuracy.neutral")."""
        truths: list[str] = references(examples, answers)
        right = [float(answer.strip().lower() == truth) for answer, truth in zip(answers, truths, strict=True)]
        return by_kind("accuracy", right, truths)

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """{"pairID": "label", ...}; there is no leaderboard that asks for a layout of its own."""
        check_answers(examples, answers)
        pairs = zip(examples, answers, strict=True)
        write_result(path, {example.id: answer.strip().lower() for example, answer in pairs})


def _pairs(path: Path) -> dict[str, Row]:
    rows = by_id(read_lines(path), "pairID")
    return {key: row for key, row in rows.items() if row.values.get("gold_label") != "-"}
