"""Standardised visual features: measured on train alone, kept with a run, and the same for new images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import WIDTH, recipe, save_data, save_language_model

from crossgraft.errors import InputError
from crossgraft.training.data import load_data
from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import evaluate, train
from crossgraft.training.standard import FILE, Standard, measure, read_standard


@pytest.fixture
def made(tmp_path: Path) -> dict[str, object]:
    data = save_data(tmp_path / "data")
    for row, path in enumerate(sorted((data / "images").glob("*.npy"))):  # as CLIP's tokens are
        features = np.load(path)
        features[:, 0] += 80
        features[:, 7] = 5.0 + 1e-9 * row
        np.save(path, features)
    return recipe(save_language_model(tmp_path / "model"), data, tmp_path / "run", training={"max_steps": 2})


def test_channels_have_mean_0_and_deviation_1_over_train(made: dict[str, object]) -> None:
    run = recipe_from(made, "test")
    tasks = run.make_tasks()
    data = load_data(run, tasks, ("train", "test"), "cpu", print)
    standard = measure(tasks, data.examples["train"], data.source)
    examples = [example for part in data.examples["train"].values() for example in part]
    features = torch.cat([data.source.of(example, "grid").reshape(-1, WIDTH) for example in examples])
    found = standard(features)
    assert torch.allclose(found.mean(0), torch.zeros(WIDTH), atol=1e-4)
    assert torch.allclose(found[:, :7].std(0), torch.ones(7), atol=1e-2)
    assert found[:, 7].abs().max() < 1e-2  # a channel that never changes is not blown up
    data.examples["test"] = {}
    assert torch.equal(measure(tasks, data.examples["train"], data.source).mean, standard.mean)


def test_a_run_keeps_what_it_measured(made: dict[str, object], tmp_path: Path) -> None:
    document = train(recipe_from(made, "test"))
    found = read_standard(tmp_path / "run", WIDTH)
    assert found.mean[0] > 79
    again = evaluate(tmp_path / "run")
    assert again["metrics"]["vqa"]["accuracy"] == document["metrics"]["vqa/test"]["accuracy"]["mean"]
    Standard(torch.zeros(3), torch.ones(3)).save(tmp_path / "run")
    with pytest.raises(InputError, match=r"visual\.safetensors: expected mean and std of 8 channels"):
        evaluate(tmp_path / "run")
    (tmp_path / "run" / FILE).unlink()
    with pytest.raises(InputError, match=r"visual\.safetensors"):
        evaluate(tmp_path / "run")


def test_features_may_stay_as_they_are(made: dict[str, object], tmp_path: Path) -> None:
    made["visual"] = {"side": 2, "feature_width": WIDTH, "standardise": False}
    train(recipe_from(made, "test"))
    assert not (tmp_path / "run" / FILE).exists()
    assert evaluate(tmp_path / "run")["metrics"]
