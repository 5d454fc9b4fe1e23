"""Answers and scores of an adapted model on the tasks of a run, with official metrics and result files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crossgraft.adapt import AdaptedModel
from crossgraft.encoders.meter import Meter
from crossgraft.tasks import Task
from crossgraft.training import processes
from crossgraft.training.batches import Collator, Row
from crossgraft.training.data import Data, has_labels
from crossgraft.training.forms import Form
from crossgraft.training.prefix_cache import inputs_of
from crossgraft.training.settings import Training

Inputs = Callable[[AdaptedModel, dict[str, Any], str], dict[str, Any]]
"""(model, batch, split) -> what the encoder reads."""


def _plain(model: AdaptedModel, batch: dict[str, Any], split: str) -> dict[str, Any]:
    return inputs_of(batch)


@dataclass
class Examiner:
    """Lets a model answer a run's examples, and scores the answers."""

    model: AdaptedModel
    tasks: Mapping[str, Task]
    data: Data
    tokenizer: Any
    form: Form
    training: Training
    meter: Meter

    def collator(self, split: str) -> Collator:
        """Makes batches of a split, with labels only of train."""
        training = self.training
        return Collator(
            self.tasks,
            self.data.examples[split],
            self.tokenizer,
            self.data.source,
            self.form,
            training.text_length,
            training.answer_length,
            training.seed,
            training=split == "train",
            knowledge=self.data.knowledge,
        )

    def score(
        self, split: str, *, limit: int | None = None, out: Path | None = None, inputs: Inputs = _plain
    ) -> dict[str, dict[str, float]]:
        """Task -> metrics, of the tasks whose examples of a split have labels.

        Args:
            limit: only so many examples of each task, the first ones.
            out: a folder for official result files, of all tasks.
            inputs: what the encoder reads of a batch.
        """
        found = {}
        for name, every in self.data.examples[split].items():
            part, task = every[:limit], self.tasks[name]
            if out is None and not has_labels(part):
                continue
            texts = self.answers(name, split, len(part), inputs)
            if out is not None and processes.is_first():
                out.mkdir(parents=True, exist_ok=True)
                task.write(part, texts, out / f"{name}-{split}")
            if has_labels(part):
                found[name] = task.score(part, texts)
        return found

    @torch.no_grad()
    def answers(self, name: str, split: str, count: int, inputs: Inputs = _plain) -> list[str]:
        """Answers to the first `count` of a task's examples, in their order; processes share the work."""
        model, collator = self.model, self.collator(split)
        collator.training = False  # answers are not shown
        was_training = model.training
        model.eval()
        model.set_task(name)
        device = next(model.parameters()).device
        # Texts of one length side by side waste no padding.
        order = sorted(range(count), key=lambda place: len(collator.examples[name][place].text))
        size = self.training.eval_batch_size
        chunks = [order[start : start + size] for start in range(0, count, size)]
        own = chunks[processes.rank() :: processes.world()]
        made: list[tuple[int, str]] = []
        self.meter.start(f"answering {name}", sum(map(len, own)))
        for places in own:
            batch = collator([Row(name, place, 0) for place in places])  # its dual encoder has a precision of its own
            with torch.autocast(device.type, torch.bfloat16, enabled=self.training.dtype == "bfloat16"):
                given = {
                    key: value.to(device) if isinstance(value, torch.Tensor) else value
                    for key, value in inputs(model, batch, split).items()
                }
                texts = self.form.answers(model, self.tokenizer, given, name, batch["examples"])
                made += zip(places, texts, strict=True)
                self.meter.advance(len(places))
        model.train(was_training)
        found = dict(processes.gathered(made))
        return [found[place] for place in range(count)]


def mean_score(tasks: Mapping[str, Task], metrics: Mapping[str, Mapping[str, float]]) -> float:
    """The mean over tasks of each one's main metric."""
    return sum(scores[tasks[name].metric] for name, scores in metrics.items()) / len(metrics)
