"""Recipes: the published counts to the parameter, bases, overrides, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crossgraft.errors import InputError
from crossgraft.training.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# Counted by running the authors' code: BART-base and 200 tokens, 4 tasks, 2048-d features.
COUNTS = {
    "image-bart-full": (141_156_864, 100.0),
    "image-bart-multiple-adapters": (19_430_400, 12.224),
    "image-bart-half-shared-adapters": (12_725_760, 8.358),
    "image-bart-single-adapter": (6_081_600, 4.177),
    "image-bart-hyperformer": (8_579_088, 5.793),
    "image-bart-multiple-compacter": (10_584_960, 7.051),
    "image-bart-single-compacter": (3_870_240, 2.699),
    "image-bart-multiple-lora": (30_020_352, 17.714),
    "image-bart-single-lora": (8_786_688, 5.928),
    "image-bart-multiple-prompts": (6_627_200, 4.533),
    "image-bart-single-prompt": (2_843_936, 1.997),
}
# Counted by running the code of the authors of dynamic visual prompting; CLIP is not counted.
DVP_COUNTS = {
    "vqa-bert-full": 117_839_673,
    "vqa-bert-adapters": 12_544_569,
    "vqa-t5-full": 231_260_985,
    "vqa-t5-adapters": 17_304_249,
}
PERCENTS = {
    "image-t5-single-adapter": 4.490,
    "image-t5-multiple-adapters": 14.292,
    "image-t5-hyperformer": 3.687,
    "image-t5-single-compacter": 2.645,
    "image-t5-multiple-compacter": 8.038,
    "image-t5-single-prompt": 1.259,
    "video-bart-single-adapter": 3.394,
}


def test_params_prints_the_published_counts(cli: Any) -> None:
    files = [RECIPES / "vl_adapter" / f"{name}.yaml" for name in (*COUNTS, *PERCENTS)]
    rows = {row["name"]: row for row in cli("params", *files, "--json").json["recipes"]}
    assert {name: (rows[name]["trainable"], round(rows[name]["percent"], 3)) for name in COUNTS} == COUNTS
    assert {name: round(rows[name]["percent"], 3) for name in PERCENTS} == PERCENTS


def test_params_prints_the_counts_of_dynamic_visual_prompting(cli: Any) -> None:
    files = [RECIPES / "dvp" / f"{name}.yaml" for name in DVP_COUNTS]
    rows = cli("params", *files, "--json").json["recipes"]
    assert {row["name"]: row["trainable"] for row in rows} == DVP_COUNTS


def test_params_of_one_recipe_and_with_changes(cli: Any) -> None:
    file = RECIPES / "vl_adapter" / "image-bart-single-adapter.yaml"
    row = cli("params", file, "method.reduction=16", "--json").json
    assert {"trainable", "total", "percent"} <= row.keys()
    assert row["trainable"] == 30 * (768 * 48 * 2 + 48 + 768) + 1_582_848 + 49_152
    assert "4.177" in cli("params", file).out


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_sound(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name
    assert recipe.about
    assert recipe.tasks


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


SMALL = "name: small\nbackbone: t5-base\nmethod: {name: adapter}\n"


def test_a_base_is_merged_and_overrides_come_last(tmp_path: Path) -> None:
    write(tmp_path, SMALL + "training: {epochs: 3, seed: 4}\n", "base.yaml")
    top = write(tmp_path, "base: base.yaml\nname: top\ntraining: {epochs: 5}\n")
    recipe = load_recipe(top, ["training.batch_size=2", "method.sharing=multiple", "training.learning_rate=1e-4"])
    training = recipe.training
    assert (recipe.name, training.epochs, training.seed, training.batch_size) == ("top", 5, 4, 2)
    assert training.learning_rate == 1e-4
    assert recipe.method == {"name": "adapter", "sharing": "multiple"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL + "trainning: {}\n", r"unknown key 'trainning'; did you mean 'training'\?"),
        (
            SMALL + "training: {learnin_rate: 1}\n",
            r"training: unknown key 'learnin_rate'; did you mean 'learning_rate'",
        ),
        (SMALL.replace("adapter", "adaptr"), "unknown method 'adaptr'; did you mean 'adapter'"),
        (SMALL.replace("adapter}", "adapter, reducton: 8}"), "unknown key 'reducton'; did you mean 'reduction'"),
        (SMALL + "training: {epochs: many}\n", "training.epochs: expected a number, found 'many'"),
        (SMALL + "training: {sampling: propotional}\n", "did you mean 'proportional'"),
        (SMALL + "tasks: {a: {task: vqa2}}\n", "unknown task 'vqa2'; did you mean 'vqav2'"),
        (SMALL + "tasks: {a: {file: x}}\n", "tasks.a: expected options with a 'task'"),
        (SMALL + "tasks: {a.b: {task: easy-vqa}}\n", "cannot be a task's name"),
        (SMALL + "tasks: {1: {task: easy-vqa}}\n", "1 cannot be a task's name"),
        (SMALL + "extra_tokens: -5\n", "extra_tokens is -5, expected a whole number of at least 0"),
        (SMALL + "training: {seed: -1}\n", "seed is -1, expected a whole number"),
        (SMALL + "training: {epochs: .inf}\n", "epochs is inf, expected a finite number"),
        (SMALL + "model: clasifier\n", "did you mean 'classifier'"),
        (SMALL + "model: classifier\nhead: {count: 1}\n", "count is 1, expected a whole number of at least 2"),
        ("name: x\nmethod: adapter\n", "'backbone' is needed"),
        ("name: [\n", "line 2: not YAML"),
        ("- a\n", "a recipe holds keys and values"),
        ("base: recipe.yaml\n", "base: expected another recipe's path"),
        ("base: none.yaml\n", "no such recipe .the base of"),
        (SMALL.replace("{name: adapter}", "[]"), "method: none is named"),
        (SMALL.replace("{name: adapter}", "[adapter, adapter]"), "adapter is listed twice"),
    ],
)
def test_a_mistake_names_the_key_and_what_was_meant(tmp_path: Path, text: str, message: str, cli: Any) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message):
        load_recipe(path)
    assert cli("params", path).code == 2


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("trainin.epochs=1", "did you mean 'training'"),
        ("training.epoch=1", "did you mean 'epochs'"),
        ("training.epochs.x=1", "'epochs' has nothing below it|expected a number"),
        ("epochs", "no override|no such recipe"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, pair: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(write(tmp_path, SMALL + "training: {epochs: 2}\n"), [pair])


def test_params_needs_an_architecture(tmp_path: Path, cli: Any) -> None:
    unknown = write(tmp_path, SMALL.replace("t5-base", "nobody/nothing") + "visual: {feature_width: 8}\n")
    assert "configuration cannot be had" in cli("params", unknown).error
    width = write(tmp_path, SMALL, "width.yaml")
    assert "visual.feature_width is needed" in cli("params", width).error
