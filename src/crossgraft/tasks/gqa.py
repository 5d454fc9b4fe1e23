"""GQA (Hudson and Manning 2019): questions made from scene graphs, in its official files.

https://cs.stanford.edu/people/dorarad/gqa. The prefix is "gqa: "; that of VL-Adapter's code is
misspelt, which is not reproduced (a recipe can set `prefix`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.tasks.base import Example
from crossgraft.tasks.files import Paths, Row, check_answers, listed, many_objects, references, write_result
from crossgraft.tasks.metrics.exact import by_kind
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import FilesTask, SplitFiles


class GqaReference(NamedTuple):
    """The answer, and how its question is built ("query", "verify", "logical", "choose", "compare")."""

    answer: str
    structural: str | None


@dataclass(frozen=True, kw_only=True)
class GqaFiles(SplitFiles):
    """Official files of a split, such as train_balanced_questions.json.

    Attributes:
        questions: a file; several, as train_all comes in ten; or a folder of them.
    """

    questions: Paths


@register_task("gqa")
@dataclass(frozen=True, kw_only=True)
class Gqa(FilesTask):
    """Open answers to compositional questions, scored by exact match."""

    splits: dict[str, GqaFiles]
    prefix: str = "gqa: "
    question_length: int | None = 20

    metric: ClassVar[str] = "accuracy"

    @many_objects()
    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are the keys of the question files."""
        files = self._files(self.splits, split)
        images = self._images(files)
        questions = _questions(files.questions)
        labelled = [row for row in questions.values() if "answer" in row.values]
        if 0 < len(labelled) < len(questions):
            row = next(row for row in questions.values() if "answer" not in row.values)
            raise InputError(
                f"{row.where}: 'answer' is missing, as it is in {len(questions) - len(labelled)} of {len(questions)} "
                "questions; a split has all of its answers, or none (test)"
            )
        examples = []
        for key, row in self._limited(questions, files.limit):
            image = images.path(f"{row.identifier('imageId')}.jpg")
            reference = _reference(row) if labelled else None
            targets = () if reference is None else ((reference.answer, 1.0),)
            examples.append(Example(key, (image,), row.text("question"), targets, reference))
        images.check()
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Exact match in percent, overall and, where the file has it, by structural type ("accuracy.query")."""
        truths: list[GqaReference] = references(examples, answers)
        values = [float(_plain(answer) == truth.answer) for answer, truth in zip(answers, truths, strict=True)]
        return by_kind("accuracy", values, [truth.structural for truth in truths])

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """[{"questionId": "1", "prediction": "..."}, ...], as the evaluation server takes it."""
        check_answers(examples, answers)
        pairs = zip(examples, answers, strict=True)
        write_result(path, [{"questionId": example.id, "prediction": _plain(answer)} for example, answer in pairs])


def _plain(answer: str) -> str:
    """The official script compares letter by letter, and its answers are in lower case."""
    return answer.strip().lower()


def _reference(row: Row) -> GqaReference:
    types = row.values.get("types")
    structural = types.get("structural") if isinstance(types, dict) else None
    return GqaReference(_plain(row.text("answer")), structural if isinstance(structural, str) else None)


def _questions(paths: Paths) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for path in _shards(paths):
        content = read_json(path)
        if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
            raise InputError(
                f'{path}: expected the official layout {{question id: {{"question": ..., "imageId": ...}}, ...}}'
            )
        for key, values in content.items():
            if key in found:
                raise InputError(f"{path}: question id {key!r} is already in {found[key].path}; ids must be unique")
            found[key] = Row(values, path, "question", key)
    if not found:
        raise InputError(f"{', '.join(map(str, listed(paths)))}: no questions")
    return found


def _shards(paths: Paths) -> list[Path]:
    shards: list[Path] = []
    for path in listed(paths):
        shards += sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not shards:
        raise InputError(f"{', '.join(map(str, listed(paths)))}: no .json files in this folder")
    return shards
