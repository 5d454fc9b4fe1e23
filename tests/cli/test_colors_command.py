"""`crossgraft colors`: a table for people, one JSON object for scripts, three files, and one line for each mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_words import KINDS, save_words_model

from conftest import Cli
from crossgraft.tasks.color_prompts import PROMPTS
from crossgraft.tasks.colors import COLORS
from crossgraft.training.recipe import recipe_from
from crossgraft.training.run import train


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a table of objects."""
    folder = tmp_path_factory.mktemp("colors")
    save_words_model(folder / "model", "bert")
    (folder / "objects.csv").write_text("object,color\nbanana,yellow\ncoal,black\nsnow,white\nsea,blue\nblood,red\n")
    return folder


def test_a_table_for_people(cli: Cli, work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli("colors", "--model", work / "model", "--data", work / "objects.csv", "--out", out, "--device", "cpu")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line[:44].rstrip() for line in lines[1 : 1 + len(PROMPTS)]] == list(PROMPTS)
    assert [line.split("  ")[0] for line in lines[-5:-1]] == [
        "mean",
        "95 % interval over objects",
        "range over prompts",
        "always red",
    ]
    assert lines[-1].startswith(f"{out / 'colors.html'}: the page")
    assert sorted(path.name for path in out.iterdir()) == ["answers.jsonl", "colors.html", "results.json"]


def test_one_object_for_scripts(cli: Cli, work: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("The color of {object} is\nMost of it is {object} , and {object} {is}\n")
    common = ("colors", "--model", work / "model", "--data", work / "objects.csv", "--device", "cpu", "--json")
    options = ("--prompts", tmp_path / "p.txt", "--limit", 4, "--seed", 5, "--out", tmp_path / "out")
    found = cli(*common, *options).json
    assert found == json.loads((tmp_path / "out" / "results.json").read_text())
    assert (found["schema_version"], found["task"], found["method"]) == (1, "object colour", "zero-shot")
    assert (found["seeds"], found["data"]["objects"], found["settings"]["limit"]) == ([5], 4, 4)
    assert found["metrics"]["colors"]["accuracy"]["mean"] == found["colors"]["mean"]["mean"]
    assert len(found["colors"]["confusion"]) == len(COLORS)
    answers = tmp_path / "out" / "answers.jsonl"
    same = cli(*common, *options[:4], "--control", answers).json
    assert same["control"] == {"answers": str(answers), "mean": 0, "low": 0, "high": 0}
    assert "other objects" in cli(*common, "--prompts", tmp_path / "p.txt", "--control", answers).error


@pytest.fixture(scope="module", params=["bert", "llama"])
def adapted(request: pytest.FixtureRequest, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and a run of an X-adapter that learned what colours things have."""
    folder = tmp_path_factory.mktemp(f"adapted-{request.param}")
    save_words_model(folder / "model", request.param)
    (folder / "bank").mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 40, 200 - 50 * number)).save(folder / "bank" / f"{number}.png")
    things = {"banana": "yellow", "coal": "black", "snow": "white", "sea": "blue", "blood": "red"}
    (folder / "captions.txt").write_text("\n".join(f"{t} usually is {c}" for t, c in things.items() for _ in range(8)))
    recipe = {
        "name": "adapted",
        "model": KINDS[request.param],
        "backbone": str(folder / "model"),
        "method": {"name": "xadapter", "width": 8},
        "knowledge": {"encoder": str(tiny_clip), "images": [str(folder / "bank")], "count": 2},
        "tasks": {"captions": {"task": "cloze", "file": str(folder / "captions.txt"), "words": "grounded"}},
        "training": {"max_steps": 20, "batch_size": 8, "learning_rate": 0.02, "validate": False},
        "out": str(folder / "run"),
    }
    train(recipe_from(recipe, "test"), device="cpu")
    return folder


def test_an_adapted_model_is_shown_what_is_found_for_each_prompt(
    cli: Cli, adapted: Path, work: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("{object} usually {is}\n")
    common = ("colors", "--model", adapted / "model", "--data", work / "objects.csv", "--device", "cpu")
    common = (*common, "--prompts", tmp_path / "prompts.txt", "--json")
    cli(*common, "--out", tmp_path / "plain")
    out = tmp_path / "out"
    found = cli(*common, "--adapter", adapted / "run", "--out", out, "--explain").json
    answers = [(folder / "answers.jsonl").read_text() for folder in (tmp_path / "plain", out)]
    assert answers[0] != answers[1]
    assert found["method"] == "adapted, then zero-shot"
    assert found["knowledge"]["images"] == 4
    page = (out / "retrieved.html").read_text()
    assert "data:image" in page
    assert "A banana usually is" in page
    again = cli(*common, "--adapter", adapted / "run", "--out", out, "--look-for", "object").json
    assert again["look_for"] == "object"
    assert not (out / "retrieved.html").exists()  # of the run before
    assert "no image of the bank is called" in cli(*common, "--adapter", adapted / "run", "--look-for", "label").error
    other = "masked" if found["settings"]["kind"] == "causal" else "causal"
    assert "was adapted" in cli(*common, "--adapter", adapted / "run", "--kind", other).error
    assert "give --adapter and --out" in cli(*common, "--explain").error
    assert "give --adapter, too" in cli(*common, "--look-for", "label").error
    assert "--look-for 'word' is unknown" in cli(*common, "--look-for", "word").error
    shutil.copytree(adapted / "model", tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file({name: value + 0.1 for name, value in weights.items()}, tmp_path / "other" / "model.safetensors")
    assert "backbone" in cli(*common[:2], tmp_path / "other", *common[3:], "--adapter", adapted / "run").error


def test_images_are_shown_by_their_label(cli: Cli, adapted: Path, work: Path, tmp_path: Path) -> None:
    """A renamed bank shows what its names say; other objects are searched for."""
    shutil.copytree(adapted, tmp_path / "run", ignore=shutil.ignore_patterns("model", "captions.txt"))
    bank = tmp_path / "run" / "bank"
    for old, new in {"0": "red_sea-1", "1": "sea_lion", "2": "sea_2"}.items():
        (bank / f"{old}.png").rename(bank / f"{new}.png")
    recipe = json.loads((tmp_path / "run" / "run" / "recipe.json").read_text())
    recipe["knowledge"]["images"] = [str(bank)]
    (tmp_path / "run" / "run" / "recipe.json").write_text(json.dumps(recipe))
    (tmp_path / "prompts.txt").write_text("{object} usually {is}\n")
    common = ("colors", "--model", adapted / "model", "--data", work / "objects.csv", "--device", "cpu", "--json")
    common = (*common, "--prompts", tmp_path / "prompts.txt", "--adapter", tmp_path / "run" / "run")
    done = cli(*common, "--look-for", "label", "--out", tmp_path / "label", "--explain")
    assert done.json["labelled"] == ["the sea"]
    assert "1 of 5 objects have images of their label" in done.err
    page = (tmp_path / "label" / "retrieved.html").read_text()
    shown = page[page.index(">sea<") :]
    assert shown.index("2.png") < shown.index("0.png")  # as the store knows them, from before they were renamed
    cli(*common, "--look-for", "object", "--out", tmp_path / "object")
    label, found = (
        [json.loads(line) for line in (tmp_path / way / "answers.jsonl").read_text().splitlines()]
        for way in ("label", "object")
    )
    unlike = [
        one["object"]
        for one, other in zip(label, found, strict=True)
        if one["log_probabilities"] != pytest.approx(other["log_probabilities"], abs=1e-4)
    ]
    assert unlike == ["the sea"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data", "none.csv"), "none.csv: no such file or folder"),
        (("--prompts", "none.txt"), "none.txt: no such file"),
        (("--kind", "mask"), "--kind 'mask' is unknown: choose from auto, masked, causal"),
        (("--kind", "causal"), "model: a bert model that reads both ways goes on with no text"),
        (("--model", "pocket-lama"), "did you mean pocket-llama?"),
        (("--control", "none.jsonl"), "none.jsonl: no such file"),
        (("--device", "tpu9"), "device 'tpu9' cannot be used here"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, work: Path, options: tuple[str, str], said: str) -> None:
    given = {"--model": work / "model", "--data": work / "objects.csv", "--device": "cpu"} | dict([options])
    arguments = [part for pair in given.items() for part in pair]
    assert said in cli("colors", *arguments).error


def test_a_limit_of_nothing_is_wrong_usage(cli: Cli, work: Path) -> None:
    done = cli("colors", "--model", "m", "--data", work / "objects.csv", "--limit", "0")
    assert done.code == 2
    assert "--limit" in done.err
