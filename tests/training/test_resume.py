"""A run that is stopped anywhere ends with the weights and scores that it would have had."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import recipe, save_data, save_language_model

from crossgraft.errors import InputError
from crossgraft.tasks.caption_task import CaptionTask
from crossgraft.training import checkpoints, run_folder
from crossgraft.training.evaluation import Examiner
from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import train
from crossgraft.training.trainer import MultiTaskTrainer

# Dropout in the model and in the adapter, batches of several steps, several epochs, cached layers, an early stop.
METHOD = {"name": "lora", "r": 4, "dropout": 0.2, "sites": ["encoder.1.*.q", "decoder.1.*.q"]}
TRAINING = {
    "epochs": 6,
    "batch_size": 8,
    "accumulate": 2,
    "sampling": "temperature",
    "checkpoint_steps": 2,
    "patience": 2,
    "validation_limit": 3,
}


class Killed(BaseException):
    """As sudden as a kill: nothing catches it."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Run the recipe in a folder."""
    folder = tmp_path_factory.mktemp("resume")
    model, data = save_language_model(folder / "model"), save_data(folder / "data")

    def call(out: Path, **options: Any) -> dict[str, Any]:
        values = recipe(model, options.pop("data", data), out, method=METHOD, also_train=[], training=TRAINING)
        return train(recipe_from(values, "test"), device="cpu", **options)

    return call


@pytest.fixture(scope="module")
def whole(start: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    start(out)
    return out


def die_at(call: int, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which at its n-th call kills instead."""
    calls = iter(range(1, 1000))

    def dying(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise Killed
        return method(*args, **kwargs)

    return dying


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (MultiTaskTrainer, "training_step", 14),
        (Examiner, "answers", 3),  # validating the second epoch
        (checkpoints, "write_json", 2),  # the second checkpoint is all there but for the last file
        (MultiTaskTrainer, "_save_optimizer_and_scheduler", 4),
        (CaptionTask, "score", 4),  # the final scores
        (run_folder, "write_json", 3),  # all is done but the results
    ],
)
def test_a_run_stopped_anywhere_ends_the_same(
    start: Callable[..., dict[str, Any]],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die_at(call, getattr(owner, name)))
        with pytest.raises(Killed):
            start(tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    resumed, expected = start(tmp_path / "run", resume=True), json.loads((whole / "results.json").read_text())
    for key in ("steps", "metrics", "parameters", "data"):
        assert resumed[key] == expected[key], key
    scores = [[entry for entry in found["history"] if "eval_mean" in entry] for found in (resumed, expected)]
    assert scores[0] == scores[1]
    path = "adapters/lora/adapter_model.safetensors"
    one, other = load_file(tmp_path / "run" / path), load_file(whole / path)
    assert all(torch.equal(one[key], other[key]) for key in other)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(path.name for path in whole.iterdir())


def test_a_run_that_is_done_is_not_run_again(
    start: Callable[..., dict[str, Any]], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MultiTaskTrainer, "training_step", die_at(1, MultiTaskTrainer.training_step))
    assert start(whole, resume=True) == json.loads((whole / "results.json").read_text())
    assert not list(whole.glob("checkpoints*"))
    assert not list(whole.glob("best*"))


def test_data_that_changed_is_noticed(
    start: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = save_data(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(MultiTaskTrainer, "training_step", die_at(5, MultiTaskTrainer.training_step))
        with pytest.raises(Killed):
            start(tmp_path / "run", data=data)
    captions = data / "captions.json"
    captions.write_text(captions.read_text().replace("a red circle", "a red star", 1))
    with pytest.raises(InputError, match="the data of caption/train is not what this run began with"):
        start(tmp_path / "run", data=data, resume=True)
