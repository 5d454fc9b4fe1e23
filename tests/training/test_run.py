"""Whole runs: trained, killed and resumed, evaluated, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_run import recipe, save_data, save_language_model

from crossgraft.errors import InputError
from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import evaluate, train


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language-model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def run(model: Path, data: Path, out: Path, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    return train(recipe_from(recipe(model, data, out, **changes), "test"), resume=resume, device="cpu")


def test_a_run_learns_two_tasks_and_writes_everything_down(model: Path, data: Path, tmp_path: Path) -> None:
    training = {"epochs": 20, "validate": False, "learning_rate": 0.005, "batch_size": 8}
    document = run(model, data, tmp_path / "run", method="full", training=training)  # random weights are no good frozen
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == document
    assert document["metrics"]["vqa/test"]["accuracy"]["mean"] >= 80
    assert document["metrics"]["caption/test"]["CIDEr"]["mean"] > 1
    assert document["seeds"] == [0]
    assert {"trainable", "total", "percent"} <= document["parameters"].keys()
    assert document["data"]["vqa/train"]["examples"] == 48
    again = evaluate(tmp_path / "run", device="cpu")
    assert again["metrics"]["vqa"]["accuracy"] == document["metrics"]["vqa/test"]["accuracy"]["mean"]


SCRIPT = """
import os, sys, yaml
from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import train
train(recipe_from(yaml.safe_load(open(sys.argv[1])), "test"), resume="--resume" in sys.argv, device="cpu")
"""


def start(values: dict[str, Any], folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(file), *flags], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def test_a_killed_run_resumes_to_the_same_weights(model: Path, data: Path, tmp_path: Path) -> None:
    training = {"epochs": 3, "checkpoint_steps": 2}
    values = recipe(model, data, tmp_path / "killed", training=training)
    process = start(values, tmp_path)
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("checkpoint-*/complete.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    (checkpoints / "checkpoint-99999").mkdir()  # one that was cut off
    resumed = run(model, data, tmp_path / "killed", resume=True, training=training)
    whole = run(model, data, tmp_path / "whole", training=training)
    assert resumed["steps"] == whole["steps"]
    assert resumed["metrics"] == whole["metrics"]
    path = "adapters/adapter/adapter_model.safetensors"
    one, other = load_file(tmp_path / "killed" / path), load_file(tmp_path / "whole" / path)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_with_a_run_is_neither_overwritten_nor_mixed(model: Path, data: Path, tmp_path: Path) -> None:
    run(model, data, tmp_path / "run", training={"max_steps": 1, "validate": False})
    with pytest.raises(InputError, match="holds a run already; go on with --resume"):
        run(model, data, tmp_path / "run")
    with pytest.raises(InputError, match=r"another recipe \(training differ"):
        run(model, data, tmp_path / "run", resume=True, training={"max_steps": 2, "validate": False})
    with pytest.raises(InputError, match="holds no run to resume"):
        run(model, data, tmp_path / "none", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        run(model, data, tmp_path / "other")
