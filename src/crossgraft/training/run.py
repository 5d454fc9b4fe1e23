"""A run: data and features made ready, adapters trained, scored on tests that training never saw, all written down.

What its folder holds is in `run_folder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from crossgraft.adapt import AdaptedModel
from crossgraft.encoders.load import device_of
from crossgraft.encoders.meter import Meter
from crossgraft.environment import check_environment, quiet_transformers
from crossgraft.errors import InputError
from crossgraft.files import read_json
from crossgraft.methods.attach import load_adapter, parameter_counts, save_adapter
from crossgraft.reporting.results import SCHEMA_VERSION, peak_memory_mb, summary, versions
from crossgraft.tasks import Task
from crossgraft.training import processes, run_folder
from crossgraft.training.batches import TaskBatches
from crossgraft.training.build import build_backbone, check_methods, load_tokenizer, put_methods
from crossgraft.training.callbacks import Progress, StepTimer
from crossgraft.training.checkpoints import last_checkpoint, load_state
from crossgraft.training.data import Data, Say, load_data, load_training_data
from crossgraft.training.evaluation import Examiner, mean_score
from crossgraft.training.forms import Form, form_of
from crossgraft.training.packages import need, need_metrics
from crossgraft.training.prefix_cache import PrefixCache
from crossgraft.training.recipe import Recipe
from crossgraft.training.run_folder import read_run
from crossgraft.training.standard import read_standard
from crossgraft.training.trainer import MultiTaskTrainer, arguments, tensorboard

__all__ = ["check_encoder", "evaluate", "load_data", "read_form", "read_run", "train", "trained_model"]


def train(recipe: Recipe, *, resume: bool = False, device: str = "auto", say: Say = lambda _: None) -> dict[str, Any]:
    """Run a recipe -> the document that results.json holds.

    Args:
        resume: go on with the run in the recipe's folder, which ends with the weights that it would have had without
            the break; of a run that is done, this is what results.json holds.

    Raises:
        InputError: bad data or options; the run's folder holds another run; nothing to resume.
        CrossgraftError: a package that is needed is not installed.
    """
    if not recipe.tasks:
        raise InputError(f"{recipe.name}: tasks: none is named, so there is nothing to train on")
    tasks = recipe.make_tasks()
    need("accelerate", "train", "training")
    need_metrics(tasks.values())
    check_environment()
    quiet_transformers()
    where = processes.join(device_of(device))
    check_methods(recipe)
    folder, first = recipe.out_folder, processes.is_first()
    with run_folder.claimed(folder, recipe, resume) if first else nullcontext(), Meter(first, unit="") as meter:
        processes.wait()
        if (folder / run_folder.RESULTS).is_file():
            say(f"{folder}: the run is done")
            document: dict[str, Any] = read_json(folder / run_folder.RESULTS)
        else:
            document = _train(recipe, tasks, folder, where, say if first else lambda _: None, meter)
        processes.wait()
        if first:
            run_folder.finish(folder, document)
    return document


def _train(
    recipe: Recipe, tasks: Mapping[str, Task], folder: Path, device: torch.device, say: Say, meter: Meter
) -> dict[str, Any]:
    training = recipe.training
    data = load_training_data(recipe, tasks, str(device), say)
    fingerprints = data.fingerprints()
    form = form_of(recipe, tasks)
    form.learn_answers(data.examples["train"])
    data.learn(recipe, tasks, say)
    tokenizer = load_tokenizer(recipe.backbone, form)
    model = build_backbone(recipe, form, data.source.feature_width, device)
    put_methods(model, recipe, form, data.widths())
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    counts = parameter_counts(model)

    examiner = Examiner(model, tasks, data, tokenizer, form, training, meter)
    sizes = {name: len(part) for name, part in data.examples["train"].items()}
    sampling = (training.sampling, training.temperature, processes.world())
    batches = TaskBatches(sizes, training.batch_size, training.seed, *sampling)
    steps_an_epoch = math.ceil(len(batches) / processes.world() / training.accumulate)
    steps = training.max_steps if training.max_steps is not None else math.ceil(steps_an_epoch * training.epochs)
    made = arguments(training, folder, steps, device)  # refuses what cannot be, before anything is written
    if processes.is_first():
        run_folder.begin(folder, recipe, data.identity(), form.state())
        if data.source.standard is not None:
            data.source.standard.save(folder)
        if data.knowledge is not None:
            data.knowledge.save(folder)
    processes.wait()
    say(f"training {counts['trainable']:,} of {counts['total']:,} parameters ({counts['percent']:.3f} %)")
    cache = PrefixCache(folder) if training.cache_frozen else None
    timer = StepTimer()

    def validation() -> dict[str, float]:
        metrics = examiner.score("val", limit=training.validation_limit, inputs=trainer.encoder_inputs)
        flat = {f"{name}_{key}": value for name, found in metrics.items() for key, value in found.items()}
        return flat | {"mean": mean_score(tasks, metrics)}

    trainer = MultiTaskTrainer(
        model,
        made,
        batches,
        examiner.collator("train"),
        form,
        data.pictured(),
        training,
        folder / run_folder.BEST,
        validation if training.validate else None,
        cache,
    )
    trainer.add_callback(timer)
    trainer.add_callback(Progress(meter, say))
    for callback in tensorboard(folder / run_folder.LOGS) if processes.is_first() else ():
        trainer.add_callback(callback)
    checkpoint = last_checkpoint(folder / run_folder.CHECKPOINTS)
    if checkpoint is not None:
        say(f"resuming from {checkpoint.folder}")
    set_seed(training.seed)
    trainer.fit(checkpoint)
    seconds = {"train": trainer.seconds, "step": timer.median()}
    if (folder / run_folder.BEST).is_dir():
        load_state(model, folder / run_folder.BEST)
    if processes.is_first():
        for name in model.grafts:
            save_adapter(model, name, folder / run_folder.ADAPTERS / name, extra={"recipe": recipe.name})
    metrics: dict[str, Mapping[str, float]] = {}
    for split in ("val", "test"):
        found = {}
        if data.examples.get(split):
            found = examiner.score(split, out=folder / run_folder.ANSWERS, inputs=trainer.encoder_inputs)
        metrics |= {f"{name}/{split}": value for name, value in found.items()}
    document = _document(recipe, tasks, data, fingerprints, metrics) | {
        "backbone": {"name": recipe.backbone, "device": str(device), "dtype": training.dtype},
        "parameters": dict(counts),
        "processes": processes.world(),
        "seconds": seconds,
        "steps": trainer.state.global_step,
        "history": [_finite(entry) for entry in trainer.state.log_history],
        "frozen_layers": dict(trainer.frozen),
        "cached": None if cache is None else {"computed": cache.computed, "reused": cache.reused},
        "peak_memory_mb": peak_memory_mb(),
    }
    if device.type == "cuda":
        document["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    if cache is not None:
        cache.close()
    return document


def _document(
    recipe: Recipe,
    tasks: Mapping[str, Task],
    data: Data,
    fingerprints: Mapping[str, str],
    metrics: Mapping[str, Mapping[str, float]],
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
        "settings": run_folder.plain(recipe),
        "encoder": {"name": recipe.visual.encoder, "fingerprint": data.source.fingerprint},
        "knowledge": None if data.knowledge is None else data.knowledge.provenance(),
        "data": {
            f"{name}/{split}": {"examples": len(part), "fingerprint": fingerprints[f"{name}/{split}"]}
            for split, parts in data.examples.items()
            for name, part in parts.items()
        },
        "skipped_examples": len(data.skipped),
        "metrics": {test: {name: summary([value]) for name, value in found.items()} for test, found in metrics.items()},
        "mean_score": means,
        "versions": versions(),
    }


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the history for JSON, which has no NaN: a gradient may overflow."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in entry.items()
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
        InputError: no finished run; no such task; no task has the split; adapters are damaged or of another backbone.
        CrossgraftError: a package that is needed is not installed.
    """
    recipe = read_run(folder)
    tasks = recipe.make_tasks()
    if task is not None and task not in tasks:
        raise InputError(f"{folder}: the run has no task {task!r}; it has: {', '.join(tasks)}")
    chosen = {name: own for name, own in tasks.items() if task in (None, name)}
    if not (folder / run_folder.ADAPTERS).is_dir():
        raise InputError(
            f"{folder}: the run is not finished, it holds no adapters; `crossgraft train --resume` goes on"
        )
    need_metrics(chosen.values())
    check_environment()
    quiet_transformers()
    where = device_of(device)
    data = load_data(recipe, chosen, (split,), str(where), say)
    check_encoder(folder, data.source.fingerprint)
    if recipe.visual.standardise:
        data.source.standard = read_standard(folder, data.source.feature_width)
    if data.knowledge is not None:
        data.knowledge.restore(folder, say)
    form = read_form(recipe, tasks, folder)
    model = trained_model(recipe, form, folder, data.source.feature_width, where)
    out = folder / run_folder.ANSWERS
    with Meter(True, unit="answers") as meter:
        tokenizer = load_tokenizer(recipe.backbone, form)
        examiner = Examiner(model, tasks, data, tokenizer, form, recipe.training, meter)
        metrics = examiner.score(split, out=out)
    files = {name: str(out / f"{name}-{split}") for name in data.examples[split]}
    return {"run": str(folder), "split": split, "metrics": metrics, "answers": files, "skipped": data.skipped}


def read_form(recipe: Recipe, tasks: Mapping[str, Task], folder: Path) -> Form:
    """The form of a run's model, with the answers that it learned.

    Raises:
        InputError: the file that holds them is missing or damaged.
    """
    form = form_of(recipe, tasks)
    form.restore(run_folder.read_answers(folder) if form.learns else {})
    return form


def check_encoder(folder: Path, fingerprint: str | None) -> None:
    """Whether images are encoded as they were when a run was trained.

    Args:
        fingerprint: of the encoder; None: features come as arrays, of which nothing is known.

    Raises:
        InputError: by another encoder, or other weights.
    """
    path = folder / run_folder.RESULTS
    recorded = read_json(path).get("encoder", {}).get("fingerprint") if path.is_file() else None
    if None not in (recorded, fingerprint) and recorded != fingerprint:
        raise InputError(
            f"{folder}: was trained on features of another image encoder ({str(recorded)[:12]}) than this one "
            f"({str(fingerprint)[:12]}); use the one it was trained with, or train again"
        )


def trained_model(recipe: Recipe, form: Form, folder: Path, feature_width: int, device: torch.device) -> AdaptedModel:
    """The model of a finished run, in eval mode.

    Raises:
        InputError: an adapter is missing, damaged, or for another backbone.
    """
    model = build_backbone(recipe, form, feature_width, device)
    names = list(recipe.methods())
    for name in names:
        load_adapter(model, folder / run_folder.ADAPTERS / name, name=name)
    model.set_active(*names)
    return model.eval()
