"""A language model that chooses among the answers it was trained on (dynamic visual prompting, LXMERT before it)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossgraft.adapt import AdaptedModel
from crossgraft.adapt.adapted import IGNORED
from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.models.architecture import language_config
from crossgraft.models.classifier import VisionClassifier, VisionClassifierConfig
from crossgraft.tasks import Example, Task
from crossgraft.training.forms.base import Form, Lesson, looking
from crossgraft.training.recipe import placed
from crossgraft.training.settings import Head

NUMBER = ("score",)
"""In place of the answers of a task whose answers are numbers: its part of the head is one output, that number."""


class ClassifierForm(Form):
    """See the module. Each task has classes of its own, side by side in one head.

    Attributes:
        classes: task -> its answers; `NUMBER` where they are numbers.
    """

    also_train = ("head.*",)
    learns = types = True

    def __init__(self, recipe: Any, tasks: Mapping[str, Task]) -> None:
        super().__init__(recipe, tasks)
        self.classes: dict[str, tuple[str, ...]] = {}

    def learn_answers(self, examples: Mapping[str, Sequence[Example]]) -> None:
        """Which answers there are.

        Raises:
            InputError: too few of them, or another number than the recipe says.
        """
        self.classes = {name: answers_of(self.tasks[name], part, self._head()) for name, part in examples.items()}
        for name, found in self.classes.items():
            if len(found) < 2 and not self.tasks[name].regression:
                raise InputError(f"{name}: {len(found)} answers to choose among; lower head.minimum, or give more data")
        count = self.recipe.head.count
        if count is not None and count != self._count():
            raise InputError(
                f"head.count is {count}, and the training answers give {self._count()}; leave head.count out"
            )

    def state(self) -> dict[str, Any]:
        return {name: list(answers) for name, answers in self.classes.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.classes = {name: tuple(answers) for name, answers in state.items()}

    def laid_out(self, feature_width: int) -> nn.Module:
        count = self._count() or self.recipe.head.count or self._stated() or 2
        return VisionClassifier(VisionClassifierConfig(language_config(self.recipe.backbone), count))

    def pretrained(self, folder: str, feature_width: int) -> nn.Module:
        answers = [answer for own in self.classes.values() for answer in own]
        seed = self.recipe.training.seed
        return VisionClassifier.from_language_model(
            folder, classes=len(answers), answers=answers, seed=seed, dtype=torch.float32
        )

    def targets(self, tokenizer: Any, inputs: Mapping[str, Tensor], lesson: Lesson) -> dict[str, Tensor]:
        if self.tasks[lesson.task].regression:
            return {"labels": torch.tensor([float(answer) for answer, _ in lesson.drawn])}
        place = {answer: row for row, answer in enumerate(self.classes[lesson.task])}
        if not self._soft(lesson.task):
            return {"labels": torch.tensor([place.get(answer, IGNORED) for answer, _ in lesson.drawn])}
        labels = torch.zeros(len(lesson.examples), len(place))
        for row, example in enumerate(lesson.examples):
            for answer, score in example.targets:
                if answer in place:
                    labels[row, place[answer]] = score
        return {"labels": labels}

    def loss(
        self, model: nn.Module, adapted: AdaptedModel, given: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        with looking(adapted, given) as text:
            outputs = model(**text)
        logits = self._own(outputs.logits, batch["task"]).float()
        labels = batch["labels"]
        if self.tasks[batch["task"]].regression:
            loss = functional.mse_loss(logits[:, 0], labels)
        elif labels.ndim == 2:  # summed over classes, mean over samples
            loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(labels)
        else:
            loss = functional.cross_entropy(logits, labels, reduction="sum") / len(labels)
        return loss, outputs

    @torch.no_grad()
    def answers(
        self, adapted: AdaptedModel, tokenizer: Any, given: dict[str, Any], task: str, examples: Sequence[Example]
    ) -> list[str]:
        with looking(adapted, given) as text:
            logits = self._own(adapted(**text).logits, task).float()
        if self.tasks[task].regression:
            return [f"{value:.3f}" for value in logits[:, 0].tolist()]
        own = self.classes[task]
        for row, example in enumerate(examples):
            if example.choices:
                offered = torch.tensor([answer in example.choices for answer in own], device=logits.device)
                logits[row] = logits[row].masked_fill(~offered, float("-inf"))
        return [own[row] for row in logits.argmax(1).tolist()]

    def _head(self) -> Head:
        head = self.recipe.head
        return head if head.file is None else replace(head, file=Path(placed(str(head.file), self.recipe.data)))

    def _count(self) -> int:
        return sum(map(len, self.classes.values()))

    def _stated(self) -> int:
        """How many answers there are, if all tasks say so without their data; else 0."""
        stated = [NUMBER if task.regression else task.decoding.choices or () for task in self.tasks.values()]
        return sum(map(len, stated)) if all(stated) else 0

    def _soft(self, task: str) -> bool:
        """VQA's answers are right to a degree; of all else one is."""
        return self.tasks[task].weighted

    def _own(self, logits: Tensor, task: str) -> Tensor:
        """A task's part (B, n) of all logits."""
        names = list(self.classes)
        start = sum(len(self.classes[name]) for name in names[: names.index(task)])
        return logits[:, start : start + len(self.classes[task])]


def answers_of(task: Task, examples: Sequence[Example], head: Head) -> tuple[str, ...]:
    """The answers a task's head tells apart: its choices, those of a file, or those of the training examples; `NUMBER`
    of a task whose answers are numbers.

    Raises:
        InputError: the file is no list of answers.
    """
    if task.regression:
        return NUMBER
    if task.decoding.choices is not None:
        return task.decoding.choices
    if head.file is not None:
        content = read_json(head.file)
        if not isinstance(content, list | dict) or not all(isinstance(answer, str) for answer in content):
            raise InputError(f"{head.file}: expected a JSON list of answers (or an object with answers as keys)")
        return tuple(content)
    counts = Counter(answer for example in examples for answer, _ in example.targets)
    return tuple(sorted(answer for answer, count in counts.items() if count >= head.minimum))
