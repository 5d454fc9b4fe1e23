"""ScienceQA (Lu et al. 2022): school science questions with two to five choices, of which about half have an image.

Files of github.com/lupantech/ScienceQA. Each example offers choices of its own (`Example.choices`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.registry import nearest
from crossgraft.tasks.base import Decoding, Example, NoSuchSplit
from crossgraft.tasks.files import Row, check_answers, many_objects, one_line, references, write_result
from crossgraft.tasks.metrics.exact import percent
from crossgraft.tasks.registry import register_task
from crossgraft.tasks.splits import SPLITS, OneFileTask, check_split, split_ids

# The authors' prompt "QCM" (question, context, multiple choice), without its examples and its last line "Answer:";
# with a lecture, "QCML". Where there is no hint, they write "N/A".
QUESTION = "Question: {question}"
CONTEXT = "Context: {context}"
CHOICES = "Options: {choices}"
LECTURE = "BECAUSE: {lecture}"
LETTERS = "ABCDE"

# The columns of the published tables, in their order.
KINDS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")
_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_GRADES = {f"grade{number}": "G1-6" if number <= 6 else "G7-12" for number in range(1, 13)}


class ScienceQaReference(NamedTuple):
    """The number of the right choice, from 0, and which of `KINDS` the question belongs to."""

    answer: int
    kinds: tuple[str, ...]


@register_task("scienceqa")
@dataclass(frozen=True, kw_only=True)
class ScienceQa(OneFileTask):
    """Multiple choice with an image or none; an example without an image has `images=()`.

    Attributes:
        problems: problems.json, which holds all splits.
        pid_splits: pid_splits.json, which lists the ids of each split; None: as the problems' own "split" says.
        splits: which list of `pid_splits` stands for "train", "val" or "test", such as {val: minival}; a split that is
            not named here is the list of its own name, and null is none. Lists that are used must not overlap.
        images: the folder of train/, val/ and test/, in which the images are SPLIT/PID/image.png.
        only_images: leave out questions without an image.
        context: the text holds the hint.
        lecture: the text holds the lecture. It is part of the annotation: the authors' upper bound, not the task.
        answer: what the model answers, the "letter" of a choice or its "text".
    """

    problems: Path
    pid_splits: Path | None = None
    splits: dict[str, str | None] = field(default_factory=dict)
    only_images: bool = False
    context: bool = True
    lecture: bool = False
    answer: Literal["letter", "text"] = "letter"
    prefix: str = "scienceqa: "
    question_length: int | None = None

    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.splits and self.pid_splits is None:
            raise InputError("'splits' names lists of pid_splits.json: 'pid_splits' is needed, too")

    @property
    def decoding(self) -> Decoding:
        """What holds where the choices of an example are not asked for: the likeliest letter, or an open answer."""
        return Decoding(choices=tuple(LETTERS)) if self.answer == "letter" else Decoding()

    @many_objects()
    def load(self, split: str) -> list[Example]:
        """Read a split, see `Task.load`; ids are those of the problems."""
        check_split(split, self.name)
        problems = _problems(self.problems)
        # Before the limit, which is a number of examples; after the lists, whose ids must all be there.
        listed = problems if self.pid_splits is None else self._listed(self.pid_splits, problems, split)
        kept = {pid: row for pid, row in listed.items() if not self.only_images or _image(row)}
        if not kept:
            raise NoSuchSplit(f"task {self.name!r}: no question of split {split!r} has an image ('only_images')")
        if self.pid_splits is None:
            chosen = split_ids(self, kept, split, {pid: pid for pid in kept})
        else:
            chosen = self._limited(kept, self.limits.get(split))
        pictures = self._pictures(chosen)
        return [self._example(pid, row, pictures.get(pid, ())) for pid, row in chosen]

    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Accuracy in percent, overall and by the kinds that there are ("accuracy.NAT", see `KINDS`).

        An answer that is none of the example's choices is wrong; the authors' script draws a choice for it.
        """
        truths: list[ScienceQaReference] = references(examples, answers)
        triples = zip(examples, answers, truths, strict=True)
        right = [one_line(answer) == example.choices[truth.answer] for example, answer, truth in triples]
        scores = {"accuracy": percent(right)}
        for kind in KINDS:
            values = [value for value, truth in zip(right, truths, strict=True) if kind in truth.kinds]
            if values:
                scores[f"accuracy.{kind}"] = percent(values)
        return scores

    def write(self, examples: Sequence[Example], answers: Sequence[str], path: Path) -> None:
        """{"results": {"pid": number of the choice, ...}}, which evaluate_acc.py reads; -1 for an answer that is none.

        That script counts -1 as wrong, and takes the results of all 4,241 test questions only.
        """
        check_answers(examples, answers)
        pairs = zip(examples, map(one_line, answers), strict=True)
        numbers = {example.id: _number(example.choices, answer) for example, answer in pairs}
        write_result(path, {"results": numbers})

    def _listed(self, path: Path, problems: Mapping[str, Row], split: str) -> dict[str, Row]:
        """The problems of a split by pid_splits.json, in its order."""
        lists = self._lists(path)
        if not lists.get(split):
            raise NoSuchSplit(f"task {self.name!r}: {path} has no ids for split {split!r}; see 'splits'")
        ids = lists.pop(split)
        # minival is part of val, and trainval holds it: chosen carelessly, questions are trained on and then scored.
        for other, others in lists.items():
            shared = [pid for pid in ids if pid in others]
            if shared:
                raise InputError(
                    f"{path}: {len(shared)} ids of split {split!r} ({self._stands(split)}) are in split {other!r} "
                    f"({self._stands(other)}), too, the first {shared[0]!r}; choose others in 'splits', or null"
                )
        absent = [pid for pid in ids if pid not in problems]
        if absent:
            raise InputError(
                f"{path}: {len(absent)} of {len(ids)} ids of {self._stands(split)!r} are not in {self.problems}, the "
                f"first {absent[0]!r}; the two files must be of the same release"
            )
        return {pid: problems[pid] for pid in ids}

    def _stands(self, split: str) -> str | None:
        return self.splits.get(split, split)

    def _lists(self, path: Path) -> dict[str, dict[str, None]]:
        """Split -> the ids of the list that stands for it, as far as there is one."""
        content = read_json(path)
        if not isinstance(content, dict):
            raise InputError(f'{path}: expected the official layout {{"train": [ids], "val": [ids], ...}}')
        lists = {}
        for split in SPLITS:
            name = self._stands(split)
            if name is None:
                continue
            if name in content:
                lists[split] = _ids(path, name, content[name])
            elif split in self.splits:
                raise InputError(
                    f"{path}: no list {name!r} (splits.{split}); {nearest(name, content)}found: {', '.join(content)}"
                )
        return lists

    def _pictures(self, chosen: Sequence[tuple[str, Row]]) -> dict[str, tuple[Path, ...]]:
        """The image of each problem that has one; a folder of images is only needed if any has."""
        names = {pid: (name, row) for pid, row in chosen if (name := _image(row)) is not None}
        if not names:
            return {}
        images = self._images()
        found: dict[str, tuple[Path, ...]] = {}
        for pid, (name, row) in names.items():
            # The problem's own split: the minival list has its images in val/.
            folders = (f"{row.text('split')}/{pid}", pid) if "split" in row.values else (pid,)
            found[pid] = (images.path(*(f"{folder}/{name}" for folder in folders)),)
        images.check()
        return found

    def _example(self, pid: str, row: Row, images: tuple[Path, ...]) -> Example:
        choices = _choices(row)
        offered = tuple(LETTERS[: len(choices)]) if self.answer == "letter" else tuple(map(one_line, choices))
        truth = _truth(row, len(choices))
        targets = () if truth is None else ((offered[truth], 1.0),)
        reference = None if truth is None else ScienceQaReference(truth, _kinds(row))
        return Example(pid, images, self._text(row, choices), targets, reference, choices=offered)

    def _text(self, row: Row, choices: Sequence[str]) -> str:
        lines = [QUESTION.format(question=row.text("question"))]
        if self.context:
            lines.append(CONTEXT.format(context=row.get("hint", str).strip() or "N/A"))
        lettered = (f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
        lines.append(CHOICES.format(choices=" ".join(lettered)))
        lecture = row.get("lecture", str).strip() if self.lecture else ""
        if lecture:
            lines.append(LECTURE.format(lecture=lecture))
        return "\n".join(lines).replace("  ", " ")


def _number(choices: Sequence[str], answer: str) -> int:
    return choices.index(answer) if answer in choices else -1


def _problems(path: Path) -> dict[str, Row]:
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise InputError(f'{path}: expected the official layout {{id: {{"question": ..., "choices": [...]}}, ...}}')
    rows = {}
    for pid, values in content.items():
        if not isinstance(values, dict):
            raise InputError(f"{path}, problem {pid}: expected keys and values, found {values!r:.60}")
        rows[pid] = Row(values, path, "problem", pid)
    return rows


def _ids(path: Path, name: str, values: object) -> dict[str, None]:
    """Ids in their order, for looking them up."""
    if not isinstance(values, list) or not all(type(value) in (str, int) for value in values):
        raise InputError(f"{path}: {name!r} must be a list of ids, found {values!r:.60}")
    ids = dict.fromkeys(map(str, values))
    if len(ids) < len(values):
        raise InputError(f"{path}: {name!r} lists {len(values) - len(ids)} ids twice; ids must be unique")
    return ids


def _image(row: Row) -> str | None:
    """The name of the image file; None where there is none."""
    if "image" in row.values and row.values["image"] is None:
        return None
    return row.get("image", str) or None


def _choices(row: Row) -> list[str]:
    choices: list[str] = row.get("choices", list)
    if not all(isinstance(choice, str) for choice in choices) or not 2 <= len(choices) <= len(LETTERS):
        raise InputError(f"{row.where}: 'choices' must be 2 to {len(LETTERS)} texts, found {choices!r:.60}")
    return choices


def _truth(row: Row, count: int) -> int | None:
    if "answer" not in row.values:
        return None
    answer = int(row.get("answer", int))
    if not 0 <= answer < count:
        raise InputError(f"{row.where}: 'answer' must be 0 to {count - 1}, found {answer}")
    return answer


def _kinds(row: Row) -> tuple[str, ...]:
    """As evaluate_acc.py has them: a question with a hint and an image is of both kinds; whether the model was given
    the hint does not matter."""
    hint, image = bool(row.get("hint", str)), _image(row) is not None
    kinds = {
        _SUBJECTS.get(str(row.values.get("subject"))),
        _GRADES.get(str(row.values.get("grade"))),
        "TXT" if hint else None,
        "IMG" if image else None,
        None if hint or image else "NO",
    }
    return tuple(kind for kind in KINDS if kind in kinds)
