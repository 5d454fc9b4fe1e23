"""Classifiers and causal models through the whole of a run: trained on features as arrays, scored, asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import WIDTH, WORDS, recipe, save_data, save_language_model

from crossgraft.errors import InputError
from crossgraft.training.build import load_tokenizer
from crossgraft.training.forms import Lesson, form_of
from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import evaluate, train

METHOD = {"name": "dvp", "dropout": 0.0}
TRAINING = {"epochs": 12, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def values(family: str, data: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    made = recipe(
        save_language_model(folder / "model", family), data, folder / "run", training=changes.pop("training", {})
    )
    made["tasks"] = {"vqa": made["tasks"]["vqa"]}
    return made | changes


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_a_classifier_learns_what_only_the_image_tells(family: str, data: Path, tmp_path: Path) -> None:
    made = values(family, data, tmp_path, model="classifier", method=METHOD, training=TRAINING)
    made["training"] |= {"epochs": 40 if family == "t5" else 16}
    document = train(recipe_from(made, "test"))
    assert document["metrics"]["vqa/test"]["accuracy"]["mean"] > 80
    classes = json.loads((tmp_path / "run" / "classes.json").read_text())
    assert classes == {"vqa": sorted(["red", "green", "blue", "grey", "circle", "square", "star"])}
    again = evaluate(tmp_path / "run", split="test")
    assert again["metrics"]["vqa"]["accuracy"] == pytest.approx(document["metrics"]["vqa/test"]["accuracy"]["mean"])


def test_a_causal_model_writes_the_answer(data: Path, tmp_path: Path) -> None:
    made = values("llama", data, tmp_path, model="causal", method=[METHOD, {"name": "adapter", "reduction": 2}])
    made["training"] |= TRAINING | {"epochs": 30}
    document = train(recipe_from(made, "test"))
    assert document["metrics"]["vqa/test"]["accuracy"]["mean"] > 80


@pytest.mark.parametrize(("family", "kind"), [("bert", "classifier"), ("llama", "classifier"), ("llama", "causal")])
def test_what_frozen_layers_give_is_kept_and_changes_nothing(
    family: str, kind: str, data: Path, tmp_path: Path
) -> None:
    weights = []
    for cached in (True, False):
        folder = tmp_path / str(cached)
        made = values(family, data, folder, model=kind, method=METHOD | {"layer": 1}, training=TRAINING)
        made["training"] |= {"epochs": 2, "cache_frozen": cached}
        document = train(recipe_from(made, "test"))
        assert document["frozen_layers"] == ({"vqa": 1} if cached else {})
        assert (document["cached"] is not None and document["cached"]["reused"] > 0) == cached
        weights.append(load_file(folder / "run" / "adapters" / "dvp" / "adapter_model.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


def test_several_batches_a_step_are_one_large_batch(data: Path, tmp_path: Path) -> None:
    states = []
    for accumulate, size in ((1, 8), (2, 4)):
        folder = tmp_path / str(accumulate)
        made = values("bert", data, folder, model="classifier", method=METHOD)
        made["training"] |= {"epochs": 3, "accumulate": accumulate, "batch_size": size, "validate": False}
        made["tasks"]["vqa"]["limits"] = {"train": 8}  # one step an epoch, whatever the order
        train(recipe_from(made, "test"))
        states.append(load_file(folder / "run" / "adapters" / "dvp" / "adapter_model.safetensors"))
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-4)


def tokens(folder: Path, family: str = "llama") -> tuple[Any, Any]:
    made = recipe_from(
        {
            "name": "x",
            "backbone": str(save_language_model(folder / "model", family)),
            "method": "bitfit",
            "model": "causal",
            "visual": {"feature_width": WIDTH},
        },
        "test",
    )
    form = form_of(made, {})
    return form, load_tokenizer(made.backbone, form)


def test_a_causal_model_is_taught_the_answer_alone(tmp_path: Path) -> None:
    form, tokenizer = tokens(tmp_path)
    inputs = form.texts(tokenizer, ["what colour is it ?", "shape ?"], 8)
    assert inputs["attention_mask"][1].tolist() == [0, 0, 0, 1, 1, 1]  # padded on the left
    made = form.targets(tokenizer, inputs, Lesson("", (), [("red star", 1.0), ("blue", 0.5)], 8))
    red, star, blue = (WORDS.index(word) for word in ("red", "star", "blue"))
    ignored = [-100] * 3
    assert made["labels"].tolist() == [[*ignored, *ignored, red, star, 1], [*ignored, blue, 1, -100, *ignored]]
    assert made["attention_mask"][1].tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert torch.equal(made["input_ids"][0, :6], inputs["input_ids"][0])
    assert torch.equal(made["input_ids"][1, :3], inputs["input_ids"][1, 3:])


def test_answers_of_a_classifier_are_those_of_train_and_frequent_enough(data: Path, tmp_path: Path) -> None:
    made = values("bert", data, tmp_path, model="classifier", method=METHOD, head={"minimum": 100})
    with pytest.raises(InputError, match=r"vqa: 0 answers to choose among; lower head.minimum"):
        train(recipe_from(made, "test"))
    made["head"] = {"count": 5}
    with pytest.raises(InputError, match=r"head.count is 5, and the training answers give 7"):
        train(recipe_from(made, "test"))
    assert not (tmp_path / "run").exists()


def test_a_run_of_a_classifier_needs_its_answers(data: Path, tmp_path: Path) -> None:
    made = values("bert", data, tmp_path, model="classifier", method=METHOD)
    made["training"] |= {"max_steps": 2}
    train(recipe_from(made, "test"))
    (tmp_path / "run" / "classes.json").write_text("[]")
    with pytest.raises(InputError, match=r"classes.json: expected the answers of each task"):
        evaluate(tmp_path / "run")
