"""The folder of a run: what lies in it, whose it is, and that one run at a time writes there.

recipe.json            what was run; written when training begins
data.json              fingerprints of what it is trained and scored on
visual.safetensors     mean and standard deviation of each channel of the visual features
knowledge.json         which dual encoder and which bank of images texts were shown
knowledge.safetensors  mean and standard deviation of each channel of the bank's features
texts.safetensors      mean embedding of training texts, as the dual encoder has them
classes.json           of a classifier: task -> the answers it tells apart, in the order of its head
checkpoints/           to resume from; removed when all is done
best/                  the adapters with the best mean validation score so far; removed likewise
logs/                  TensorBoard's
adapters/NAME/         what was trained (`methods.attach`)
answers/TASK-SPLIT     official result files
results.json           every number; written last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crossgraft.errors import InputError
from crossgraft.files import exclusive, read_json, write_json
from crossgraft.training.recipe import Recipe, recipe_from

RECIPE, DATA, CLASSES, RESULTS, LOCK = "recipe.json", "data.json", "classes.json", "results.json", ".lock"
CHECKPOINTS, BEST, LOGS, ADAPTERS, ANSWERS = "checkpoints", "best", "logs", "adapters", "answers"
FREE = ("out", "about")  # keys of a recipe that a resumed run may change


@contextmanager
def claimed(folder: Path, recipe: Recipe, resume: bool) -> Iterator[None]:
    """Hold a run's folder: a new one, or one with the same recipe. One in which no training begins is left as it was.

    Raises:
        InputError: the folder holds another run, or other files; another run is writing there; nothing to resume.
    """
    _check(folder, recipe, resume)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / LOCK):
        _check(folder, recipe, resume)  # another run may have been done just now
        try:
            yield
        finally:
            if not (folder / RECIPE).exists():
                (folder / LOCK).unlink()
                with suppress(OSError):  # it is not empty
                    if new:
                        folder.rmdir()


def _check(folder: Path, recipe: Recipe, resume: bool) -> None:
    path, wanted = folder / RECIPE, plain(recipe)
    if path.is_file():
        if not resume:
            raise InputError(f"{folder}: holds a run already; go on with --resume, or give another folder (out=...)")
        there = read_json(path)
        # As text: tasks in another order are other batches.
        changed = sorted(
            key
            for key in wanted
            if key not in FREE
            and (not isinstance(there, dict) or json.dumps(there.get(key)) != json.dumps(wanted[key]))
        )
        if changed:
            raise InputError(f"{folder}: the run there was made with another recipe ({', '.join(changed)} differ)")
        return
    if resume:
        raise InputError(f"{folder}: holds no run to resume")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a new folder (out=...)")
    if folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir()):
        raise InputError(f"{folder}: holds other files; give a new folder (out=...)")


def begin(folder: Path, recipe: Recipe, fingerprints: Mapping[str, str], classes: Mapping[str, Any]) -> None:
    """Write down what a run is trained on, or, where that is written down, compare it.

    Args:
        classes: the answers that a classifier tells apart; empty for other models.

    Raises:
        InputError: the data has changed since.
    """
    if not (folder / RECIPE).is_file():
        write_json(folder / RECIPE, plain(recipe))
    if classes:
        write_json(folder / CLASSES, dict(classes))
    if not (folder / DATA).is_file():
        write_json(folder / DATA, dict(fingerprints))
        return
    there = read_json(folder / DATA)
    changed = sorted(key for key in {*there, *fingerprints} if there.get(key) != fingerprints.get(key))
    if changed:
        raise InputError(
            f"{folder}: the data of {', '.join(changed)} is not what this run began with (texts, answers or images "
            "changed); put it back, or start a new run (out=...)"
        )


def finish(folder: Path, document: Mapping[str, Any]) -> None:
    """Write the results, then remove what only an unfinished run needs."""
    if not (folder / RESULTS).is_file():
        write_json(folder / RESULTS, document)
    for name in (CHECKPOINTS, BEST):
        shutil.rmtree(folder / name, ignore_errors=True)


def read_run(folder: Path) -> Recipe:
    """The recipe of a run's folder.

    Raises:
        InputError: the folder holds no run.
    """
    path = folder / RECIPE
    if not path.is_file():
        raise InputError(f"{folder}: holds no run (no {RECIPE}); give a folder that `crossgraft train` wrote")
    return recipe_from(read_json(path), str(path))


def read_answers(folder: Path) -> dict[str, list[str]]:
    """Task -> the answers that a run's classifier tells apart.

    Raises:
        InputError: the file is missing or damaged.
    """
    content = read_json(folder / CLASSES)
    whole = isinstance(content, dict) and all(
        isinstance(answers, list) and all(isinstance(answer, str) for answer in answers) for answers in content.values()
    )
    if not whole:
        raise InputError(f"{folder / CLASSES}: expected the answers of each task; train again, into another folder")
    return dict(content)


def plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as JSON; paths as text."""
    return json.loads(json.dumps(asdict(recipe), default=str))  # type: ignore[no-any-return]
