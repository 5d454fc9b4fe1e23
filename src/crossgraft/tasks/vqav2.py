"""VQA v2 (Goyal et al. 2017): questions with ten answers each, in the official files of https://visualqa.org."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.tasks.base import Example
from crossgraft.tasks.files import (
    Paths,
    Row,
    by_id,
    check_answers,
    check_match,
    listed,
    many_objects,
    read_part,
    references,
    write_result,
)
from crossgraft.tasks.metrics.exact import by_kind
from crossgraft.tasks.metrics.vqa_accuracy import as_compared, soft_scores, tidy, vqa_accuracy
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import FilesTask, SplitFiles


class VqaReference(NamedTuple):
    """What ten people said, as it stands in the file, and which kind of answer it is ("yes/no", "number", "other")."""

    answers: tuple[str, ...]
    answer_type: str | None


@dataclass(frozen=True, kw_only=True)
class VqaFiles(SplitFiles):
    """Official files of a split; several are joined, as train and val often are.

    Attributes:
        questions: v2_OpenEnded_mscoco_*_questions.json.
        annotations: v2_mscoco_*_annotations.json; None for test.
    """

    questions: Paths
    annotations: Paths | None = None


@register_task("vqav2")
@dataclass(frozen=True, kw_only=True)
class VqaV2(FilesTask):
    """Open answers to questions about COCO photos, scored by the official accuracy.

    Training draws one of a question's answers in proportion to its soft score, which also weights the loss. Questions
    of train that have no target (no answer is in the vocabulary, or nothing is left of any once it is normalised) are
    left out.

    Attributes:
        normalise: targets are the answers as the official evaluator compares them; false: as people typed them.
        vocabulary: JSON list of answers, such as lxmert's trainval_label2ans.json, or an object with them as keys: only
            they are targets.
    """

    splits: dict[str, VqaFiles]
    prefix: str = "vqa: "
    question_length: int | None = 20
    normalise: bool = True
    vocabulary: Path | None = None

    metric: ClassVar[str] = "accuracy"
    weighted: ClassVar[bool] = True

    @many_objects()
    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are question ids, which are whole numbers."""
        files = self._files(self.splits, split)
        images = self._images(files)
        questions = by_id(self._rows(files.questions, "questions", keep=("data_subtype",)), "question_id", whole=True)
        if not questions:
            raise InputError(f"{_names(files.questions)}: no questions")
        annotations: dict[str, Row] | None = None
        if files.annotations is not None:
            annotations = by_id(self._rows(files.annotations, "annotations"), "question_id", whole=True)
            names = (_names(files.questions), _names(files.annotations))
            check_match(questions, annotations, *names)
        vocabulary = None if self.vocabulary is None else _vocabulary(self.vocabulary)

        examples = []
        for key, row in self._limited(questions, files.limit):
            image = row.whole("image_id")
            reference = None if annotations is None else _reference(annotations[key])
            targets = () if reference is None else self._targets(reference.answers, vocabulary)
            if split == "train" and reference is not None and not targets:
                continue
            subtype = row.values["data_subtype"]
            names_ = (f"COCO_{subtype}_{image:012d}.jpg", f"{image:012d}.jpg")
            examples.append(
                Example(key, (images.path(*names_, number=image),), row.text("question"), targets, reference)
            )
        if not examples:
            where = "" if self.vocabulary is None else f" in the vocabulary {self.vocabulary}"
            raise InputError(f"{_names(files.questions)}: no question of {split!r} has an answer{where} to learn")
        images.check()
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Official accuracy, overall and by answer type ("accuracy.yes/no" and so on)."""
        truths: list[VqaReference] = references(examples, answers)
        values = [vqa_accuracy(answer, truth.answers) for answer, truth in zip(answers, truths, strict=True)]
        return by_kind("accuracy", values, [truth.answer_type for truth in truths])

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """[{"question_id": 1, "answer": "..."}, ...], as the evaluation server takes it."""
        check_answers(examples, answers)
        write_result(
            path,
            [
                {"question_id": int(example.id), "answer": answer}
                for example, answer in zip(examples, answers, strict=True)
            ],
        )

    def _targets(self, answers: tuple[str, ...], vocabulary: frozenset[str] | None) -> tuple[tuple[str, float], ...]:
        forms = as_compared(answers) if self.normalise else [tidy(answer) for answer in answers]
        return tuple(
            (answer, score)
            for answer, score in soft_scores(forms).items()
            if answer and (vocabulary is None or answer in vocabulary)
        )

    @staticmethod
    def _rows(paths: Paths, key: str, keep: tuple[str, ...] = ()) -> list[Row]:
        """Entries of all files; what `keep` names is handed down from the file to each of its entries."""
        rows: list[Row] = []
        for path in listed(paths):
            content, entries = read_part(path, key)
            shared: dict[str, Any] = {name: content.get(name, "") for name in keep}
            for row in entries:
                row.values.update(shared)
            rows += entries
        return rows


def _reference(row: Row) -> VqaReference:
    answers = []
    for answer in row.get("answers", list):
        if type(answer) is not dict or type(answer.get("answer")) is not str:
            raise InputError(f"{row.where}: each of 'answers' must be {{\"answer\": text, ...}}, found {answer!r:.60}")
        answers.append(answer["answer"])
    if not answers:
        raise InputError(f"{row.where}: 'answers' is empty; expected the answers of (ten) people")
    kind = row.values.get("answer_type")
    return VqaReference(tuple(answers), kind if isinstance(kind, str) else None)


def _vocabulary(path: Path) -> frozenset[str]:
    content = read_json(path)
    if not isinstance(content, list | dict) or not all(isinstance(answer, str) for answer in content):
        raise InputError(f"{path}: expected a JSON list of answers (or an object with answers as keys)")
    return frozenset(content)


def _names(paths: Paths) -> str:
    return ", ".join(map(str, listed(paths)))
