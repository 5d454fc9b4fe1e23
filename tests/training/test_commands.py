"""`crossgraft params`, `train` and `evaluate`: one JSON object on stdout, and one line for each mistake."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_run import recipe, save_data, save_language_model

from crossgraft.errors import InputError
from crossgraft.files import exclusive
from crossgraft.training import trainer
from crossgraft.training.run import check_encoder

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model and data."""
    made = tmp_path_factory.mktemp("commands")
    save_language_model(made / "model")
    save_data(made / "data")
    return made


@pytest.fixture
def write(folder: Path, tmp_path: Path) -> Write:
    """Write a recipe with changes -> its file."""

    def call(**changes: Any) -> Path:
        values = recipe(folder / "model", folder / "data", tmp_path / "run", **changes)
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return tmp_path / "recipe.yaml"

    return call


@pytest.fixture(scope="module")
def done(folder: Path, cli: Any) -> Path:
    """A finished run. Do not change it; copy it."""
    values = recipe(folder / "model", folder / "data", folder / "done", training={"max_steps": 2, "validate": False})
    (folder / "done.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    outcome = cli("train", folder / "done.yaml", "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    assert {"metrics", "parameters", "seconds"} <= outcome.json.keys()
    return folder / "done"


def test_evaluate_prints_one_object_and_writes_official_files(done: Path, cli: Any) -> None:
    outcome = cli("evaluate", done, "--split", "val", "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert found["metrics"].keys() == found["answers"].keys() == {"vqa", "caption"}
    rows = json.loads(Path(found["answers"]["vqa"]).read_text())
    assert rows
    assert {"id", "image", "question", "answer"} == rows[0].keys()
    one = cli("evaluate", done, "--task", "caption", "--device", "cpu")
    assert "caption/test" in one.out
    assert "vqa" not in one.out
    assert (done / "answers" / "caption-test").is_file()


def test_train_shows_a_table(write: Write, cli: Any, tmp_path: Path) -> None:
    outcome = cli("train", write(), "training.max_steps=1", "training.validate=false", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "vqa/test" in outcome.out
    assert "parameters (" in outcome.err
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != "logs") == [
        ".lock",
        "adapters",
        "answers",
        "data.json",
        "recipe.json",
        "results.json",
        "visual.safetensors",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["training.learnin_rate=1"], "did you mean 'learning_rate'"),
        (["training.epochs=0"], "training: epochs is 0.0, expected a number above 0"),
        (["training.batch_size=0"], "batch_size is 0, expected a whole number of at least 1"),
        (["training.validate=false", "training.patience=2"], "patience waits for better validation scores"),
        (["tasks.vqa.task=vqa2"], "unknown task 'vqa2'"),
        (["tasks.vqa.images=none"], "none: no such folder"),
        (["tasks={}"], "there is nothing to train on"),
        (["method.sites=[encoder.9.*]"], "'encoder.9.*' matches nothing in this model"),
        (["also_train=[visual_embeding.*]"], "visual_embeding"),
        (["backbone=no/where"], "configuration cannot be had"),
        (["visual.feature_width=9"], "visual.feature_width is 9, and "),
        (["tasks.vqa.fractions={train: 1, val: 0, test: 0}", "--resume"], "holds no run to resume"),
        (["--device", "cuda:7"], "device 'cuda:7' cannot be used here"),
        (["--device", "gpu"], "device 'gpu' cannot be used here"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    write: Write, tmp_path: Path, cli: Any, changes: list[str], message: str
) -> None:
    if any("cuda" in change for change in changes) and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    device = [] if "--device" in changes else ["--device", "cpu"]
    assert message in cli("train", write(), *changes, *device).error
    assert not (tmp_path / "run").exists()


def test_files_that_are_not_there(write: Write, folder: Path, tmp_path: Path, cli: Any) -> None:
    assert "no such recipe" in cli("train", tmp_path / "none.yaml").error
    assert "holds no run" in cli("evaluate", tmp_path).error
    data = shutil.copytree(folder / "data", tmp_path / "data")
    (data / "images" / "3.npy").unlink()
    changes = [f"tasks.vqa.images={data / 'images'}", f"tasks.caption.images={data / 'images'}"]
    assert "1 of" in cli("train", write(), *changes, "--device", "cpu").error
    assert not (tmp_path / "run").exists()


def test_annotations_of_other_questions(write: Write, tmp_path: Path, cli: Any) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000000000001.jpg").touch()
    question = {"question_id": 1, "image_id": 1, "question": "what is it ?"}
    answers = [{"answer": "red", "answer_id": row, "answer_confidence": "yes"} for row in range(10)]
    annotation = {"question_id": 2, "image_id": 1, "answers": answers, "question_type": "what", "answer_type": "other"}
    (tmp_path / "questions.json").write_text(json.dumps({"questions": [question]}))
    (tmp_path / "annotations.json").write_text(json.dumps({"annotations": [annotation]}))
    split = {name: str(tmp_path / f"{name}.json") for name in ("questions", "annotations")}
    task = {"task": "vqav2", "images": str(tmp_path / "images"), "splits": {"train": split}}
    file = write(tasks={"vqa": task}, training={"validate": False})
    assert "annotations.json" in cli("train", file, "--device", "cpu").error


def test_a_folder_in_use(write: Write, tmp_path: Path, cli: Any) -> None:
    (tmp_path / "run").mkdir()
    with exclusive(tmp_path / "run" / ".lock"):
        assert "another run is writing here" in cli("train", write(), "--device", "cpu").error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "vqaa"], "the run has no task 'vqaa'; it has: vqa, caption"),
        (["--split", "tests"], "unknown split 'tests'"),
        (["--device", "gpu"], "cannot be used here"),
    ],
)
def test_evaluate_says_what_there_is(done: Path, cli: Any, options: list[str], message: str) -> None:
    assert message in cli("evaluate", done, *options).error


def test_adapters_are_for_one_backbone(done: Path, folder: Path, tmp_path: Path, cli: Any) -> None:
    run = shutil.copytree(done, tmp_path / "copy")
    values = json.loads((run / "recipe.json").read_text())
    values["backbone"] = str(save_language_model(tmp_path / "other", seed=1))
    (run / "recipe.json").write_text(json.dumps(values))
    error = cli("evaluate", run, "--device", "cpu").error
    assert f"was trained on {folder / 'model'}" in error
    assert "this backbone has other weights" in error
    values["backbone"] = str(save_language_model(tmp_path / "bart", "bart"))
    (run / "recipe.json").write_text(json.dumps(values))
    assert "this backbone has other weights" in cli("evaluate", run, "--device", "cpu").error
    shutil.rmtree(run / "adapters")
    assert "the run is not finished" in cli("evaluate", run, "--device", "cpu").error


def test_images_are_encoded_as_they_were_in_training(done: Path, tmp_path: Path) -> None:
    run = shutil.copytree(done, tmp_path / "copy")
    document = json.loads((run / "results.json").read_text())
    document["encoder"]["fingerprint"] = "a" * 64
    (run / "results.json").write_text(json.dumps(document))
    check_encoder(run, "a" * 64)
    check_encoder(run, None)  # arrays, of which nothing is known
    with pytest.raises(InputError, match=r"another image encoder \(aaaaaaaaaaaa\) than this one \(bbbbbbbbbbbb\)"):
        check_encoder(run, "b" * 64)


def test_a_device_that_cannot_is_refused_and_leaves_nothing(
    write: Write, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise ValueError("Your setup doesn't support bf16/gpu.\nMore.")

    monkeypatch.setattr(trainer, "_arguments", refuse)
    outcome = cli("train", write(), "--device", "cpu")
    assert (outcome.code, outcome.error) == (2, "training: Your setup doesn't support bf16/gpu.")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("package", "extra", "method"),
    [("accelerate", "train", "adapter"), ("pycocoevalcap", "metrics", "adapter"), ("peft", "peft", "lora")],
)
def test_packages_are_asked_for_before_any_work(
    write: Write,
    tmp_path: Path,
    cli: Any,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    method: str,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    for name in [name for name in sys.modules if name.split(".")[0] == package and package == "peft"]:
        monkeypatch.setitem(sys.modules, name, None)
    outcome = cli("train", write(method=method), "tasks.vqa.images=none", "--device", "cpu")
    assert (outcome.code, outcome.out) == (1, "")
    assert f"pip install 'crossgraft[{extra}]'" in outcome.err
    assert not (tmp_path / "run").exists()


def test_tensorboard_may_be_absent(write: Write, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else find(name, *rest)
    )
    file = write(training={"max_steps": 1, "validate": False})
    assert cli("train", file, "--device", "cpu").code == 0
    assert not (tmp_path / "run" / "logs").exists()
