"""Batches of one task each: drawn in order of a seed and an epoch, tokenized when they are needed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from crossgraft.errors import InputError
from crossgraft.tasks import Example, Task
from crossgraft.tasks.cloze import without_masks
from crossgraft.training.forms import Form, Lesson
from crossgraft.training.forms.base import in_batch
from crossgraft.training.knowledge import KnowledgeSource, own_image, told
from crossgraft.training.visual import VisualSource, pad


@dataclass(frozen=True)
class Row:
    """Where an example is: the name of its task in this run, its place in that task's list, and the epoch it is for."""

    task: str
    place: int
    epoch: int


class Rows(Dataset):  # type: ignore[type-arg]
    """`Row` -> `Row`: what a batch needs is made by `Collator`, all at once."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: Row) -> Row:
        return row


class TaskBatches(Sampler[list[Row]]):
    """Batches of one task each.

    Proportional sampling (the authors') shows every example once an epoch. The other two keep the number of batches and
    share it out among the tasks by another rule, so that small tasks come round more than once and large ones are cut.

    Args:
        sizes: task -> number of examples.
        batch_size: examples a batch; the last one of a task may be smaller.
        seed: of the order.
        sampling, temperature: as in `Training`.
        world: processes that share the batches out. Each gets as many: some batches may come twice for it.

    Raises:
        InputError: a task has no examples.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        batch_size: int,
        seed: int,
        sampling: str = "proportional",
        temperature: float = 2.0,
        world: int = 1,
    ) -> None:
        if empty := [task for task, size in sizes.items() if not size]:
            raise InputError(f"task {empty[0]!r} has no examples to train on")
        self.sizes, self.seed = dict(sizes), seed
        self._rows = batch_size  # not `batch_size`: accelerate would take batches for equally large
        own = {task: -(-size // batch_size) for task, size in self.sizes.items()}
        power = {"proportional": 1.0, "temperature": 1 / temperature, "uniform": 0.0}[sampling]
        weights = {task: (count / max(own.values())) ** power for task, count in own.items()}
        scale = sum(own.values()) / sum(weights.values())
        self.counts = own if power == 1 else {task: max(1, round(w * scale)) for task, w in weights.items()}
        self.epoch, self._world = 0, world

    def __len__(self) -> int:
        return -(-sum(self.counts.values()) // self._world) * self._world

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Row]]:
        rng = random.Random(f"{self.seed} {self.epoch}")
        batches = [batch for task in self.sizes for batch in self._of(task, rng)]
        rng.shuffle(batches)
        return islice(cycle(batches), len(self))

    def _of(self, task: str, rng: random.Random) -> list[list[Row]]:
        places: list[int] = []
        wanted = self.counts[task] * self._rows
        while len(places) < wanted:
            order = list(range(self.sizes[task]))
            rng.shuffle(order)
            places += order
            if self.counts[task] == -(-self.sizes[task] // self._rows):
                break  # once through, with a smaller last batch
        starts = range(0, min(wanted, len(places)), self._rows)
        return [[Row(task, place, self.epoch) for place in places[i : i + self._rows]] for i in starts]


@dataclass
class Collator:
    """Rows of one task -> tensors for a model.

    A batch holds: rows; task; examples; input_ids, attention_mask (B, L), of pairs perhaps token_type_ids; visual
    (B, I, T, g), visual_mask (B, I, T), unless none has images; memories that are found for the texts; and for training
    what the form makes of the answers that are drawn (labels and weights).
    """

    tasks: Mapping[str, Task]
    examples: Mapping[str, Sequence[Example]]
    tokenizer: Any
    source: VisualSource
    form: Form
    text_length: int
    answer_length: int
    seed: int
    training: bool = True
    knowledge: KnowledgeSource | None = None

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        (name,) = {row.task for row in rows}
        task = self.tasks[name]
        examples = [self.examples[name][row.place] for row in rows]
        texts = [task.prefix + example.text for example in examples]
        seconds = [example.second for example in examples]
        inputs = self.form.texts(self.tokenizer, texts, task.question_length or self.text_length, seconds)
        batch: dict[str, Any] = {"rows": list(rows), "task": name, "examples": examples, **inputs}
        if any(example.images for example in examples):
            batch["visual"], batch["visual_mask"] = pad([self._features(example, task) for example in examples])
        seen = [told(example) for example in examples]
        if self.training:
            drawn = [task.draw(example, self._rng(row)) for example, row in zip(examples, rows, strict=True)]
            length = self.text_length if task.cloze else self.answer_length
            batch |= self.form.targets(self.tokenizer, inputs, Lesson(name, examples, drawn, length))
            if task.cloze:  # what is shown beside a text must not know the words that are hidden in it
                seen = [masked for masked, _ in drawn]
        if self.knowledge is not None:
            learned = self.training and task.cloze and self.knowledge.shows_own
            own = [own_image(example) for example in examples] if learned else ()
            batch |= in_batch(self.knowledge.of([without_masks(text) for text in seen], own=own))
        return batch

    def _features(self, example: Example, task: Task) -> Tensor:
        if not example.images:  # among others that have some
            return torch.zeros(0, 0, self.source.feature_width)
        return self.source.of(example, task.visual)

    def _rng(self, row: Row) -> random.Random:
        """Its own for each example and epoch, so that what is drawn depends on neither order nor a resumed run."""
        return random.Random(f"{self.seed} {row.epoch} {row.task} {row.place}")
