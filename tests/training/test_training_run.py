"""Whole runs: trained, killed and resumed, evaluated, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tiny_run import WIDTH, recipe, save_data, save_language_model

from crossgraft.errors import InputError
from crossgraft.methods.attach import adapter_state
from crossgraft.tasks import Example, NoSuchSplit, Task, register_task
from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import evaluate, train
from crossgraft.training.trainer import MultiTaskTrainer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language_model(tmp_path_factory.mktemp("language-model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def run(model: Path, data: Path, out: Path, *, resume: bool = False, **changes: Any) -> dict[str, Any]:
    return train(recipe_from(recipe(model, data, out, **changes), "test"), resume=resume, device="cpu")


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_run_learns_two_tasks_and_writes_everything_down(family: str, data: Path, tmp_path: Path) -> None:
    model = save_language_model(tmp_path / "model", family)
    training = {"epochs": 14, "validate": False, "learning_rate": 0.005, "batch_size": 8}
    document = run(model, data, tmp_path / "run", method="full", training=training)  # random weights are no good frozen
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == document
    assert document["metrics"]["vqa/test"]["accuracy"]["mean"] >= 80
    assert document["metrics"]["caption/test"]["CIDEr"]["mean"] > 1
    assert document["seeds"] == [0]
    assert {"trainable", "total", "percent"} <= document["parameters"].keys()
    assert document["data"]["vqa/train"]["examples"] == 48
    again = evaluate(tmp_path / "run", device="cpu")
    assert again["metrics"]["vqa"]["accuracy"] == document["metrics"]["vqa/test"]["accuracy"]["mean"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("run/adapters/*/adapter_model.safetensors")))


def test_labels_of_test_never_reach_training(model: Path, data: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(data, tmp_path / "data")
    questions = (changed / "questions.csv").read_text().splitlines()
    wrong = [line.replace(",red,", ",grey,") if line.endswith(",test") else line for line in questions]
    assert wrong != questions
    (changed / "questions.csv").write_text("\n".join(wrong) + "\n")
    documents = [
        run(model, where, tmp_path / name / "run", training={"epochs": 1})
        for name, where in (("one", data), ("other", changed))
    ]
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert all(torch.equal(one[key], other[key]) for key in one)
    found = [document["data"]["vqa/test"]["fingerprint"] for document in documents]
    assert found[0] != found[1]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_frozen_layers_run_once_a_sample_and_the_weights_stay_the_same(family: str, data: Path, tmp_path: Path) -> None:
    still = {"dropout_rate": 0.0} if family == "t5" else {"dropout": 0.0}
    model = save_language_model(tmp_path / "model", family, **still)
    method = {"name": "adapter", "reduction": 4, "sites": ["encoder.1.feed_forward", "decoder.*.feed_forward"]}
    documents = [
        run(
            model,
            data,
            tmp_path / str(cached) / "run",
            method=method,
            also_train=[],
            training={"epochs": 2, "cache_frozen": cached, "learning_rate": 1e-3},
        )
        for cached in (True, False)
    ]
    assert documents[0]["frozen_layers"] == {"vqa": 1, "caption": 1}
    samples = sum(entry["examples"] for name, entry in documents[0]["data"].items() if not name.endswith("/test"))
    assert documents[0]["cached"]["computed"] == samples  # each once, of train and val
    assert documents[0]["cached"]["reused"] == (48 + 24) + 2 * (16 + 8)  # the second epoch, two more validations
    assert documents[1]["cached"] is None
    one, other = weights(tmp_path / "True"), weights(tmp_path / "False")
    assert all(torch.allclose(one[key], other[key], atol=1e-4) for key in one)
    losses = [[entry["loss"] for entry in found["history"] if "loss" in entry] for found in documents]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_layers_are_frozen_for_tasks_without_images(model: Path, data: Path, tmp_path: Path) -> None:
    tasks = recipe(model, data, tmp_path)["tasks"] | {"words": {"task": "tiny-words"}}
    tasks["mixed"] = {"task": "tiny-words", "image": str(data / "images" / "0.npy")}
    method = {"name": "adapter", "reduction": 4, "sites": ["encoder.1.feed_forward"]}
    also = ["visual_embedding.*"]
    document = run(
        model, data, tmp_path / "run", tasks=tasks, method=method, also_train=also, training={"max_steps": 30}
    )
    # Of "mixed" one example has an image, which may not be in its first batch.
    assert document["frozen_layers"] == {"vqa": 0, "caption": 0, "words": 1, "mixed": 0}
    assert document["data"].keys() >= {"words/train"}
    assert "words/test" not in document["data"]  # it has none


@register_task("tiny-words")
@dataclass(frozen=True)
class Words(Task):
    """A task without images, but for one if it is named, and without val and test."""

    prefix: str = "what "
    image: Path | None = None
    empty: str | None = None
    metric: ClassVar[str] = "accuracy"

    def load(self, split: str) -> list[Example]:
        if split == self.empty:
            return []
        if split != "train":
            raise NoSuchSplit("there is train alone")
        images = [() if self.image is None or row else (self.image,) for row in range(5)]
        return [Example(str(row), own, "is it ?", (("red", 1.0),), "red") for row, own in enumerate(images)]

    def score(self, examples: Any, answers: Any) -> dict[str, float]:
        raise NotImplementedError

    def write(self, examples: Any, answers: Any, path: Path) -> None:
        raise NotImplementedError


def test_bfloat16_trains_and_answers(model: Path, data: Path, tmp_path: Path) -> None:
    training = {"max_steps": 3, "dtype": "bfloat16", "gradient_checkpointing": True}
    document = run(model, data, tmp_path / "run", training=training)
    assert document["steps"] == 3
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.float32}
    again = evaluate(tmp_path / "run", device="cpu")
    assert again["metrics"]["vqa"]["accuracy"] == document["metrics"]["vqa/test"]["accuracy"]["mean"]


def test_the_best_adapters_are_kept_and_patience_ends(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([1.0, 5.0, 2.0, 3.0, 9.0])
    monkeypatch.setattr("crossgraft.training.run.mean_score", lambda *_: next(scores, 0.0))
    seen: list[dict[str, torch.Tensor]] = []
    keep = MultiTaskTrainer.evaluate

    def evaluated(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append({key: value.clone() for key, value in adapter_state(self.model, "adapter").items()})
        return keep(self, *args, **kwargs)

    monkeypatch.setattr(MultiTaskTrainer, "evaluate", evaluated)
    document = run(model, data, tmp_path / "run", training={"epochs": 9, "patience": 2, "validation_limit": 2})
    assert len(seen) == 4
    assert document["steps"] == 4 * (12 + 6)
    assert all(torch.equal(value, seen[1][key]) for key, value in weights(tmp_path).items())


@pytest.mark.parametrize("what", ["image", "array"])
def test_a_damaged_image_costs_its_examples(
    model: Path, data: Path, tiny_clip: Path, tmp_path: Path, what: str
) -> None:
    changed = shutil.copytree(data, tmp_path / "data")
    visual: dict[str, Any] = {"side": 2, "feature_width": WIDTH}
    if what == "array":
        path = changed / "images" / "0.npy"
        path.write_bytes(path.read_bytes()[:-5])
    else:
        for number in range(40):
            (changed / "images" / f"{number}.npy").unlink()
            Image.new("RGB", (40, 40), (number, 99, 0)).save(changed / "images" / f"{number}.png")
        for name in ("questions.csv", "captions.json"):
            (changed / name).write_text((changed / name).read_text().replace(".npy", ".png"))
        (changed / "images" / "0.png").write_bytes(b"no picture")
        visual = {"encoder": str(tiny_clip), "side": 2, "store": str(tmp_path / "store")}
    training = {"max_steps": 1, "validate": False}
    document = run(model, changed, tmp_path / "run", visual=visual, training=training)
    assert document["skipped_examples"] == 3  # two questions, a caption
    assert document["data"]["vqa/train"]["examples"] == 46
    again = evaluate(tmp_path / "run", split="train", device="cpu")
    assert len(again["skipped"]) == 3


def test_what_val_is_for(model: Path, data: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(data, tmp_path / "data")
    lines = (changed / "questions.csv").read_text().splitlines()
    blank = [",".join([*line.split(",")[:2], "", "val"]) if line.endswith(",val") else line for line in lines]
    (changed / "questions.csv").write_text("\n".join(blank) + "\n")
    tasks = {"vqa": recipe(model, changed, tmp_path)["tasks"]["vqa"]}
    with pytest.raises(InputError, match="no task has a val with answers"):
        run(model, changed, tmp_path / "run", tasks=tasks)
    document = run(model, changed, tmp_path / "run", tasks=tasks, training={"max_steps": 1, "validate": False})
    assert document["metrics"].keys() == {"vqa/test"}
    found = evaluate(tmp_path / "run", split="val", device="cpu")  # answered, not scored
    assert found["metrics"] == {}
    assert len(json.loads(Path(found["answers"]["vqa"]).read_text())) == 16


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
    training = {"epochs": 2, "checkpoint_steps": 2, "validate": False}
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


def test_a_grid_that_cannot_be_pooled_costs_its_examples(model: Path, data: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(data, tmp_path / "data")
    np.save(changed / "images" / "0.npy", np.zeros((3, WIDTH), dtype=np.float32))  # no square
    document = run(model, changed, tmp_path / "run", training={"max_steps": 2, "validate": False})
    assert document["skipped_examples"] == 3  # two questions and a caption
    assert document["data"]["vqa/train"]["examples"] == 46


def test_a_split_that_holds_nothing_is_none(model: Path, data: Path, tmp_path: Path) -> None:
    tasks = recipe(model, data, tmp_path)["tasks"] | {"words": {"task": "tiny-words", "empty": "val"}}
    document = run(model, data, tmp_path / "run", tasks=tasks, training={"max_steps": 2})
    assert "words/val" not in document["data"]
    tasks["words"]["empty"] = "train"
    with pytest.raises(NoSuchSplit, match="words: train holds no example"):
        run(model, data, tmp_path / "other", tasks=tasks)
