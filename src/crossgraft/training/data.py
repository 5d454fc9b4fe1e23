"""The data of a run: examples by split and task, and where their features come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crossgraft.errors import InputError
from crossgraft.tasks import Example, NoSuchSplit, Task
from crossgraft.training.knowledge import KnowledgeSource, Say
from crossgraft.training.recipe import Recipe
from crossgraft.training.standard import measure
from crossgraft.training.visual import VisualSource, looks_at_images


@dataclass
class Data:
    """Examples by split and task, without those whose images cannot be used, where their features come from, and what
    texts are shown beside themselves."""

    examples: dict[str, dict[str, list[Example]]]
    source: VisualSource
    skipped: list[str]
    knowledge: KnowledgeSource | None = None

    def learn(self, recipe: Recipe, tasks: Mapping[str, Task], say: Say) -> None:
        """What training examples alone tell: how features are standardised, and what texts are like.

        Raises:
            InputError: as for `KnowledgeSource.learn`.
        """
        train = self.examples["train"]
        if self.knowledge is not None:
            self.knowledge.learn([example for part in train.values() for example in part], say)
        if recipe.visual.standardise:
            self.source.standard = measure(tasks, train, self.source)

    def widths(self) -> dict[str, int]:
        """Option of a method -> width of what it is fed."""
        return {"feature_width": self.source.feature_width} | (self.knowledge.widths if self.knowledge else {})

    def pictured(self) -> frozenset[str]:
        """The tasks of which any example, of any split, has an image."""
        return frozenset(
            task
            for parts in self.examples.values()
            for task, part in parts.items()
            if any(example.images for example in part)
        )

    def fingerprints(self) -> dict[str, str]:
        """ "TASK/SPLIT" -> SHA-256 over ids, texts, answers and image contents."""
        found = {}
        for split, parts in self.examples.items():
            for task, part in parts.items():
                digest = hashlib.sha256()
                for example in part:
                    images = [self.source.identity(path) for path in example.images]
                    values = [example.id, example.text, example.targets, example.reference, images, example.rows]
                    values += [example.choices] if example.choices else []
                    values += [example.second] if example.second else []
                    digest.update(json.dumps(values, default=repr).encode())
                found[f"{task}/{split}"] = digest.hexdigest()
        return found

    def identity(self) -> dict[str, str]:
        """What a run that is resumed has to find again: the data's fingerprints, and the bank's."""
        known = {} if self.knowledge is None else self.knowledge.provenance()
        return self.fingerprints() | ({"knowledge": str(known["bank"])} if "bank" in known else {})


def load_data(recipe: Recipe, tasks: Mapping[str, Task], splits: Sequence[str], device: str, say: Say) -> Data:
    """Read the splits of all tasks and make their features ready.

    Tasks may lack val or test. The labels of those are for scores alone; batches for training are made of train.

    Raises:
        InputError: a task's files are wrong, or images are missing; a task has no train, or no task has the one split
            that is asked for; none of a task's examples can be used.
    """
    examples: dict[str, dict[str, list[Example]]] = {split: {} for split in splits}
    for split, parts in examples.items():
        for name, task in tasks.items():
            try:
                found = task.load(split)
                if not found:
                    raise NoSuchSplit(f"{name}: {split} holds no example")
                parts[name] = found
            except NoSuchSplit:
                if split == "train" or (len(splits) == 1 and not parts and name == list(tasks)[-1]):
                    raise
    everything = [example for parts in examples.values() for part in parts.values() for example in part]
    kinds = {task.visual for task in tasks.values()}
    looked_at = looks_at_images(recipe)
    source = VisualSource.open(recipe.visual, everything, kinds, device=device, looked_at=looked_at)
    skipped = []
    for split, parts in examples.items():
        for name, part in parts.items():
            bad = {example.id: reason for example in part if (reason := source.unusable(example))}
            skipped += [f"{name}/{split}: {reason}" for reason in bad.values()]
            parts[name] = [example for example in part if example.id not in bad]
            if not parts[name]:
                raise InputError(f"{name}: none of the {len(part)} examples of {split} can be used ({skipped[-1]})")
    if skipped:
        say(f"{len(skipped)} examples are left out, their images cannot be used; the first: {skipped[0]}")
    return Data(examples, source, skipped, KnowledgeSource.open(recipe, device=device, say=say))


def load_training_data(recipe: Recipe, tasks: Mapping[str, Task], device: str, say: Say) -> Data:
    """What a training needs: train, test where there is one, and val if the recipe validates.

    Raises:
        InputError: as for `load_data`; examples of train have no answers; there is nothing to validate on.
    """
    splits = ("train", "val", "test") if recipe.training.validate else ("train", "test")
    data = load_data(recipe, tasks, splits, device, say)
    for name, part in data.examples["train"].items():
        if any(not example.targets for example in part):
            raise InputError(f"{name}: examples of train have no answers, so there is nothing to learn from")
    if recipe.training.validate and not any(has_labels(part) for part in data.examples["val"].values()):
        raise InputError(f"{recipe.name}: no task has a val with answers; name one, or set training.validate=false")
    return data


def has_labels(examples: Sequence[Example]) -> bool:
    """Whether answers to them can be scored."""
    return all(example.reference is not None for example in examples)
