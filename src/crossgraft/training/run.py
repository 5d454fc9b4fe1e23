"""A run: data and features made ready, adapters trained, scored on tests that training never saw, all written down.

The folder of a run:
    recipe.json            what was run
    checkpoints/           to resume from
    best/                  the adapters with the best mean validation score so far
    adapters/NAME/         what was trained (`methods.attach`)
    answers/TASK-SPLIT...  official result files
    results.json           every number
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from crossgraft.adapt import AdaptedModel
from crossgraft.encoders.load import device_of
from crossgraft.encoders.meter import Meter
from crossgraft.environment import check_environment, quiet_transformers
from crossgraft.errors import InputError
from crossgraft.files import exclusive, read_json, write_json
from crossgraft.methods.attach import load_adapter, parameter_counts, save_adapter
from crossgraft.reporting.results import SCHEMA_VERSION, peak_memory_mb, summary, versions
from crossgraft.tasks import Example, NoSuchSplit, Task
from crossgraft.training.batches import Collator, TaskBatches
from crossgraft.training.build import build_backbone, load_tokenizer, put_methods
from crossgraft.training.evaluation import answers, mean_score, write_answers
from crossgraft.training.prefix_cache import PrefixCache
from crossgraft.training.recipe import Recipe, recipe_from
from crossgraft.training.trainer import MultiTaskTrainer, Progress, arguments, last_checkpoint, load_state
from crossgraft.training.visual import VisualSource

Say = Callable[[str], None]


@dataclass
class Data:
    """Examples by split and task, without those whose images cannot be used, and where their features come from."""

    examples: dict[str, dict[str, list[Example]]]
    source: VisualSource
    skipped: list[str]

    def fingerprint(self, split: str, task: str) -> str:
        """SHA-256 over ids, texts, targets and image contents."""
        digest = hashlib.sha256()
        for example in self.examples[split][task]:
            images = [self.source.identity(path) for path in example.images]
            digest.update(json.dumps([example.id, example.text, example.targets, images, example.rows]).encode())
        return digest.hexdigest()


def load_data(recipe: Recipe, tasks: Mapping[str, Task], splits: Sequence[str], device: str, say: Say) -> Data:
    """Read the splits of all tasks and make their features ready.

    The labels of val and test are for scores alone; batches for training are made of train."""
    examples: dict[str, dict[str, list[Example]]] = {}
    for split in splits:
        examples[split] = {}
        for name, task in tasks.items():
            try:
                examples[split][name] = task.load(split)
            except NoSuchSplit:
                if split == splits[0]:  # what the run cannot do without
                    raise
    everything = [example for parts in examples.values() for part in parts.values() for example in part]
    kinds = {task.visual for task in tasks.values()}
    source = VisualSource.open(recipe.visual, everything, kinds, device=device)
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
    return Data(examples, source, skipped)


def train(recipe: Recipe, *, resume: bool = False, device: str = "auto", say: Say = lambda _: None) -> dict[str, Any]:
    """Run a recipe -> the document that results.json holds.

    Raises:
        InputError: bad data or options; the run's folder holds another run; nothing to resume.
    """
    if not recipe.tasks:
        raise InputError(f"{recipe.name}: tasks: none is named, so there is nothing to train on")
    folder = recipe.out_folder
    _claim(folder, recipe, resume)
    with exclusive(folder / ".lock"), Meter(True, unit="") as meter:
        return _train(recipe, folder, resume, device_of(device), say, meter)


def _train(recipe: Recipe, folder: Path, resume: bool, device: torch.device, say: Say, meter: Meter) -> dict[str, Any]:
    check_environment()
    quiet_transformers()
    training, tasks = recipe.training, recipe.make_tasks()
    splits = ("train", "val", "test") if training.validate else ("train", "test")
    data = load_data(recipe, tasks, splits, str(device), say)
    if training.validate and not data.examples["val"]:
        raise InputError(f"{recipe.name}: no task has a val split; name one, or set training.validate=false")
    for name, part in data.examples["train"].items():
        if any(not example.targets for example in part):
            raise InputError(f"{name}: examples of train have no answers, so there is nothing to learn from")
    tokenizer = load_tokenizer(recipe.backbone)
    model = build_backbone(recipe, data.source.feature_width, device)
    put_methods(model, recipe)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    counts = parameter_counts(model)
    say(f"training {counts['trainable']:,} of {counts['total']:,} parameters ({counts['percent']:.3f} %)")

    def collator(split: str) -> Collator:
        shown = data.examples[split]
        return Collator(
            tasks,
            shown,
            tokenizer,
            data.source,
            training.text_length,
            training.answer_length,
            training.seed,
            training=split == "train",
        )

    sizes = {name: len(part) for name, part in data.examples["train"].items()}
    batches = TaskBatches(sizes, training.batch_size, training.seed, training.sampling, training.temperature)
    steps_an_epoch = -(-len(batches) // training.accumulate)
    steps = training.max_steps if training.max_steps is not None else round(steps_an_epoch * training.epochs)
    timer = _StepTimer()
    cache = PrefixCache(folder) if training.cache_frozen else None

    def validation() -> dict[str, float]:
        was_training = model.training
        metrics = scores("val", training.validation_limit)
        model.train(was_training)
        flat = {f"{name}_{key}": value for name, found in metrics.items() for key, value in found.items()}
        return flat | {"mean": mean_score(tasks, metrics)}

    def scores(split: str, limit: int | None = None, out: Path | None = None) -> dict[str, dict[str, float]]:
        asked = collator(split)
        if limit is not None:
            asked.examples = {name: part[:limit] for name, part in asked.examples.items()}
        found = {}
        for name, part in asked.examples.items():
            texts = answers(
                model,
                asked,
                name,
                training.eval_batch_size,
                meter,
                lambda adapted, batch: trainer.encoder_inputs(adapted, batch, split),
            )
            if out is not None:
                write_answers(tasks[name], part, texts, out / f"{name}-{split}")
            if all(example.reference is not None for example in part):
                found[name] = tasks[name].score(part, texts)
        return found

    trainer = MultiTaskTrainer(
        model,
        arguments(training, folder / "checkpoints", steps, device.type),
        batches,
        collator("train"),
        training,
        folder,
        validation if training.validate else None,
        cache,
    )
    trainer.add_callback(timer)
    trainer.add_callback(Progress(meter, say))
    checkpoint = last_checkpoint(folder / "checkpoints") if resume else None
    if checkpoint is not None:
        say(f"resuming from {checkpoint}")
    set_seed(training.seed)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    train_seconds = time.monotonic() - started
    model.eval()
    if (folder / "best").is_dir():
        load_state(model, folder / "best")
    for name in model.grafts:
        save_adapter(model, name, folder / "adapters" / name, extra={"recipe": recipe.name})
    metrics: dict[str, Mapping[str, float]] = {}
    for split in ("val", "test"):
        if data.examples.get(split):
            found = scores(split, out=folder / "answers")
            metrics |= {f"{name}/{split}": value for name, value in found.items()}
    document = _document(recipe, tasks, data, metrics, counts, device) | {
        "seconds": {"train": train_seconds, "step": timer.median()},
        "steps": trainer.state.global_step,
        "history": trainer.state.log_history,
        "frozen_layers": dict(trainer.frozen),
        "cached": None if cache is None else {"computed": cache.computed, "reused": cache.reused},
        "peak_memory_mb": peak_memory_mb(),
    }
    if device.type == "cuda":
        document["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    if cache is not None:
        cache.close()
    write_json(folder / "results.json", document)
    return document


def _document(
    recipe: Recipe,
    tasks: Mapping[str, Task],
    data: Data,
    metrics: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """The part of results.json that says what was run on what, and what came out."""
    means = {}
    for split in ("val", "test"):
        own = {key.removesuffix(f"/{split}"): value for key, value in metrics.items() if key.endswith(f"/{split}")}
        if own:
            means[split] = mean_score(tasks, own)
    return {
        "schema_version": SCHEMA_VERSION,
        "task": "vision-language tasks",
        "method": [method.name for method in recipe.methods().values()],
        "protocol": "trained on train, chosen on val" if recipe.training.validate else "trained on train, last step",
        "seeds": [recipe.training.seed],
        "settings": _plain(recipe),
        "backbone": {"name": recipe.backbone, "device": str(device), "dtype": recipe.training.dtype},
        "encoder": {"name": recipe.visual.encoder, "fingerprint": data.source.fingerprint},
        "data": {
            f"{name}/{split}": {"examples": len(part), "fingerprint": data.fingerprint(split, name)}
            for split, parts in data.examples.items()
            for name, part in parts.items()
        },
        "skipped_examples": len(data.skipped),
        "metrics": {test: {name: summary([value]) for name, value in found.items()} for test, found in metrics.items()},
        "mean_score": means,
        "parameters": dict(counts),
        "versions": versions(),
    }


def evaluate(
    folder: Path, *, task: str | None = None, split: str = "test", device: str = "auto", say: Say = lambda _: None
) -> dict[str, Any]:
    """Answer and score a finished run's tasks again -> {"metrics", "answers", ...}; writes the official result files.

    Args:
        folder: of the run.
        task: one task of the run; None: all that have the split.
        split: "train", "val" or "test"; one without labels is answered and not scored.

    Raises:
        InputError: no finished run; no such task; no task has the split.
    """
    check_environment()
    quiet_transformers()
    recipe = read_run(folder)
    tasks = recipe.make_tasks()
    if task is not None and task not in tasks:
        raise InputError(f"{folder}: the run has no task {task!r}; it has: {', '.join(tasks)}")
    chosen = {name: own for name, own in tasks.items() if task in (None, name)}
    if not (folder / "adapters").is_dir():
        raise InputError(
            f"{folder}: the run is not finished, it holds no adapters; `crossgraft train --resume` goes on"
        )
    where = device_of(device)
    data = load_data(recipe, chosen, (split,), str(where), say)
    model = trained_model(recipe, folder, data.source.feature_width, where)
    training = recipe.training
    collator = Collator(
        tasks,
        data.examples[split],
        load_tokenizer(recipe.backbone),
        data.source,
        training.text_length,
        training.answer_length,
        training.seed,
        training=False,
    )
    metrics, files = {}, {}
    with Meter(True, unit="answers") as meter:
        for name, part in data.examples[split].items():
            texts = answers(model, collator, name, training.eval_batch_size, meter)
            files[name] = str(folder / "answers" / f"{name}-{split}")
            write_answers(tasks[name], part, texts, Path(files[name]))
            if all(example.reference is not None for example in part):
                metrics[name] = tasks[name].score(part, texts)
    return {"run": str(folder), "split": split, "metrics": metrics, "answers": files, "skipped": data.skipped}


def trained_model(recipe: Recipe, folder: Path, feature_width: int, device: torch.device) -> AdaptedModel:
    """The model of a finished run, in eval mode.

    Raises:
        InputError: an adapter is missing, damaged, or for another backbone.
    """
    model = build_backbone(recipe, feature_width, device)
    names = list(recipe.methods())
    for name in names:
        load_adapter(model, folder / "adapters" / name, name=name)
    model.set_active(*names)
    return model.eval()


def read_run(folder: Path) -> Recipe:
    """The recipe of a run's folder.

    Raises:
        InputError: the folder holds no run.
    """
    path = folder / "recipe.json"
    if not path.is_file():
        raise InputError(f"{folder}: holds no run (no recipe.json); give a folder that `crossgraft train` wrote")
    return recipe_from(read_json(path), str(path))


def _claim(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Take a new folder for a run, or one that holds the same run."""
    path, wanted = folder / "recipe.json", _plain(recipe)
    if path.is_file():
        if not resume:
            raise InputError(f"{folder}: holds a run already; go on with --resume, or give another folder (out=...)")
        there = read_json(path)
        if there != wanted:
            changed = sorted(key for key in wanted if not isinstance(there, dict) or there.get(key) != wanted[key])
            raise InputError(f"{folder}: the run there was made with another recipe ({', '.join(changed)} differ)")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: holds other files; give a new folder (out=...)")
    if resume:
        raise InputError(f"{folder}: holds no run to resume")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)


def _plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON; paths as text."""
    return json.loads(json.dumps(asdict(recipe), default=str))  # type: ignore[no-any-return]


class _StepTimer(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seconds.append(time.perf_counter() - self._started)

    def median(self) -> float | None:
        return statistics.median(self._seconds) if self._seconds else None
