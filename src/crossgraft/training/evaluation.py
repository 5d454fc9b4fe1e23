"""Scores of an adapted model on tasks, with official metrics and result files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from crossgraft.adapt import AdaptedModel
from crossgraft.encoders.meter import Meter
from crossgraft.tasks import Example, Task
from crossgraft.training.answering import answer
from crossgraft.training.batches import Collator, Row
from crossgraft.training.prefix_cache import inputs_of

Inputs = Callable[[AdaptedModel, dict[str, Any]], dict[str, Any]]
"""What the encoder reads of a batch."""


def _plain(model: AdaptedModel, batch: dict[str, Any]) -> dict[str, Any]:
    return inputs_of(batch)


@torch.no_grad()
def answers(
    model: AdaptedModel, collator: Collator, name: str, batch_size: int, meter: Meter, inputs: Inputs = _plain
) -> list[str]:
    """An answer for each of a task's examples, in their order."""
    model.eval()
    model.set_task(name)
    device = next(model.parameters()).device
    count = len(collator.examples[name])
    # Texts of one length side by side waste no padding.
    order = sorted(range(count), key=lambda place: len(collator.examples[name][place].text))
    found = [""] * count
    meter.start(f"answering {name}", count)
    for start in range(0, count, batch_size):
        rows = [Row(name, place, 0) for place in order[start : start + batch_size]]
        given = {
            key: value.to(device) if isinstance(value, torch.Tensor) else value
            for key, value in inputs(model, collator(rows)).items()
        }
        texts = answer(model, collator.tokenizer, given, collator.tasks[name].decoding)
        for row, text in zip(rows, texts, strict=True):
            found[row.place] = text
        meter.advance(len(rows))
    return found


def mean_score(tasks: Mapping[str, Task], metrics: Mapping[str, Mapping[str, float]]) -> float:
    """The mean over tasks of each one's main metric."""
    return sum(scores[tasks[name].metric] for name, scores in metrics.items()) / len(metrics)


def write_answers(task: Task, examples: Sequence[Example], texts: Sequence[str], path: Path) -> None:
    """The official result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    task.write(examples, texts, path)
