"""easy-VQA: questions about one coloured shape, as the PyPI package `easy-vqa` (MIT) carries them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.tasks.base import Example
from crossgraft.tasks.files import check_answers, references, write_result
from crossgraft.tasks.images import ImageFolders
from crossgraft.tasks.metrics.exact import by_kind
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import Fractions, OneFileTask, check_split

_SHAPES = ("circle", "rectangle", "triangle")


class EasyReference(NamedTuple):
    """The answer, and its kind: "yes/no", "shape" or "colour"."""

    answer: str
    kind: str


class _Question(NamedTuple):
    text: str
    answer: str
    image: int


@register_task("easy-vqa")
@dataclass(frozen=True, kw_only=True)
class EasyVqa(OneFileTask):
    """Questions with 13 possible answers about 64 x 64 drawings; small enough to train on a CPU.

    Attributes:
        data: the folder with train/, test/ and answers.txt; None: that of the installed package.
        fractions: how the official training images are divided into train and val; test is the official test.
    """

    data: Path | None = None
    fractions: Fractions = field(default_factory=lambda: Fractions(train=0.9, val=0.1, test=0))
    prefix: str = "vqa: "
    question_length: int | None = 20

    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fractions.test:
            raise InputError("fractions.test: must be 0, since easy-VQA has a test split of its own")
        if self.images is not None:
            raise InputError("images: the images of easy-VQA lie in 'data'; leave 'images' out")

    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are the places of questions in the file of train or test, from 0."""
        check_split(split, self.name)
        data = self.data if self.data is not None else _installed()
        folder = data / ("test" if split == "test" else "train")
        questions = _questions(folder / "questions.json", _answers(data / "answers.txt"))
        if split != "test":
            kept = self._part({key: str(question.image) for key, question in questions.items()}, split)
            questions = {key: questions[key] for key in kept}
        images = ImageFolders(folder / "images", self.name)
        examples = [
            Example(
                key,
                (images.path(f"{question.image}.png"),),
                question.text,
                ((question.answer, 1.0),),
                EasyReference(question.answer, _kind(question.answer)),
            )
            for key, question in self._limited(questions, self.limits.get(split))
        ]
        images.check()
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Exact match in percent, overall and by kind of answer ("accuracy.shape")."""
        truths: list[EasyReference] = references(examples, answers)
        right = [float(answer.strip().lower() == truth.answer) for answer, truth in zip(answers, truths, strict=True)]
        return by_kind("accuracy", right, [truth.kind for truth in truths])

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """[{"question_id": 0, "answer": "..."}, ...]; there is no leaderboard that asks for a layout of its own."""
        check_answers(examples, answers)
        pairs = zip(examples, answers, strict=True)
        write_result(path, [{"question_id": int(example.id), "answer": answer} for example, answer in pairs])


def _kind(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in _SHAPES else "colour"


def _installed() -> Path:
    """The package's data, found without running the package."""
    found = importlib.util.find_spec("easy_vqa")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    if not folders:
        raise InputError(
            "task 'easy-vqa': the package easy-vqa is not installed; run: pip install easy-vqa "
            "(or set 'data' to a folder with its train/, test/ and answers.txt)"
        )
    return Path(folders[0]) / "data"


def _answers(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); 'data' must be the folder of easy-VQA's data") from None


def _questions(path: Path, answers: frozenset[str]) -> dict[str, _Question]:
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(f"{path}: expected a list of [question, answer, image id]")
    found = {}
    for number, entry in enumerate(content):
        if not isinstance(entry, list) or [type(part) for part in entry] != [str, str, int]:
            raise InputError(f"{path}, entry {number + 1}: expected [question, answer, image id], found {entry!r:.60}")
        question = _Question(*entry)
        if question.answer not in answers:
            raise InputError(f"{path}, entry {number + 1}: the answer {question.answer!r:.40} is not in answers.txt")
        found[str(number)] = question
    return found
