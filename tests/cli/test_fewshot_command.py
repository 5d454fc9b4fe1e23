"""`crossgraft fewshot`: from a folder of pictures to results and classifiers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import EMOJI, Cli, make_colours
from crossgraft import __version__
from crossgraft.encoders.load import load_encoder
from crossgraft.fewshot import METHODS, load_classifier

# -- the whole way, with real models


def accuracies(document: dict[str, Any]) -> dict[tuple[str, Any], list[float]]:
    return {(r["method"], r["shots"]): r["metrics"]["test"]["accuracy"]["per_seed"] for r in document["runs"]}


@pytest.fixture(scope="module")
def lite_run(
    cli: Cli, pocket_home: Path, emoji_split: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """All methods, 1 and 4 shots, two seeds, on pocket-lite -> the output folder and what --json printed."""
    out = tmp_path_factory.mktemp("run") / "out"
    options = ("--method", "all", "--shots", "4,1", "--seeds", "1,2", "--json", "--device", "cpu")
    return out, cli("fewshot", EMOJI, "--split", emoji_split, "--model", "pocket-lite", "--out", out, *options).json


@pytest.mark.pocket
def test_results_follow_the_schema(lite_run: tuple[Path, dict[str, Any]]) -> None:
    out, printed = lite_run
    document = json.loads((out / "results.json").read_text())
    assert document == printed
    assert (document["schema_version"], document["task"], document["protocol"]) == (
        1,
        "few-shot classification",
        "none",
    )
    assert document["seeds"] == [1, 2]
    assert document["versions"]["crossgraft"] == __version__
    encoder = load_encoder("pocket-lite", device="cpu")
    assert document["backbone"]["name"] == "pocket-lite"
    assert document["backbone"]["fingerprint"] == encoder.fingerprint
    assert len(document["data"]["fingerprint"]) == 64
    assert [(r["method"], r["shots"]) for r in document["runs"]] == [(m, k) for k in (1, 4) for m in METHODS]
    for record in document["runs"]:
        for metric in ("accuracy", "macro_accuracy"):
            scores = record["metrics"]["test"][metric]
            assert scores["mean"] == pytest.approx(sum(scores["per_seed"]) / 2)
            assert scores["std"] >= 0
        parameters = record["parameters"]
        assert parameters["total"] == encoder.n_parameters + parameters["trainable"]
        assert 0 <= parameters["percent"] < 100
        assert record["support_images"] == 3 * record["shots"]
        assert record["seconds"].keys() == {"fit", "tune"}
    assert json.loads((out / "skipped.json").read_text()) == []


@pytest.mark.pocket
def test_few_photos_teach_something(lite_run: tuple[Path, dict[str, Any]]) -> None:
    """Three classes, chance is 33 %. Birds, fruit and vehicles of one style are easy with four photos each."""
    scores = accuracies(lite_run[1])
    for method in ("linear-probe", "nearest-mean", "gda", "proker"):
        assert sum(scores[method, 4]) / 2 >= 80, method
    for method in METHODS:
        assert sum(scores[method, 4]) >= sum(scores["zero-shot", 4]), method


@pytest.mark.pocket
def test_adapters_are_of_the_most_shots_and_the_first_seed(lite_run: tuple[Path, dict[str, Any]]) -> None:
    out, document = lite_run
    assert {path.name for path in (out / "adapters").iterdir()} == set(METHODS)
    for method in METHODS:
        config = json.loads((out / "adapters" / method / "adapter_config.json").read_text())
        assert config["encoder"] == {
            key: document["backbone"][key] for key in ("name", "fingerprint", "dtype", "draft")
        }
        extra = config["extra"]
        assert (extra["shots"], extra["seed"], extra["protocol"], extra["key"]) == (4, 1, "none", "feature")
        assert len(extra["support"]) == 12
        assert extra["data"] == document["data"]["fingerprint"]
        assert load_classifier(out / "adapters" / method).classes_.tolist() == ["bird", "fruit", "vehicle"]


@pytest.mark.pocket
def test_the_same_run_again_scores_the_same_and_tells_it_in_tables(
    cli: Cli, lite_run: tuple[Path, dict[str, Any]], pocket_home: Path, emoji_split: Path, tmp_path: Path
) -> None:
    stores = {path: path.stat().st_mtime_ns for path in (pocket_home / "features").glob("*/shards/*")}
    assert stores
    options = ("--method", "all", "--shots", "1,4", "--seeds", "1,2", "--device", "cpu")
    arguments = ("fewshot", EMOJI, "--split", emoji_split, "--model", "pocket-lite", "--out", tmp_path / "again")
    outcome = cli(*arguments, *options)
    assert outcome.code == 0
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert accuracies(again) == accuracies(lite_run[1])
    assert {path: path.stat().st_mtime_ns for path in (pocket_home / "features").glob("*/shards/*")} == stores
    lines = outcome.out.splitlines()
    for method in METHODS:
        assert sum(line.split()[:1] == [method] for line in lines) == 2  # accuracy, cost
    assert max(map(len, lines)) <= 80
    assert f"results: {tmp_path / 'again' / 'results.json'}" in outcome.err


@pytest.mark.pocket
def test_xmadapter_tuned_on_validation_photos_and_tested_on_another_style(
    cli: Cli, pocket_home: Path, emoji_split: Path, tmp_path: Path
) -> None:
    fluent = tmp_path / "fluent"
    for name in ("bird", "fruit", "vehicle"):
        (fluent / name).mkdir(parents=True)
        for path in sorted((EMOJI / "fluent" / name).iterdir())[:3]:
            shutil.copy(path, fluent / name)
    arguments = ("fewshot", EMOJI, "--split", emoji_split, "--model", "pocket-lite", "--out", tmp_path / "out")
    options = ("--shots", "2", "--seeds", "1", "--protocol", "min4", "--test", fluent, "--views", "1", "--json")
    options += ("--method", "xmadapter-paper")
    document = cli(*arguments, *options, "--set", "epochs=3", "--device", "cpu").json
    assert (document["method"], document["shots"], document["protocol"]) == ("xmadapter-paper", 2, "min4")
    assert list(document["metrics"]) == ["test", "fluent"]
    assert document["metrics"]["test"]["accuracy"]["mean"] > 50
    assert document["parameters"]["trainable"] > 6 * 1280  # the image keys and two small nets
    assert document["hyperparameters"][0]["epochs"] == 3
    assert document["settings"]["views"] == 1


@pytest.mark.pocket
def test_the_real_clip_goes_the_whole_way(cli: Cli, pocket_home: Path, emoji_split: Path, tmp_path: Path) -> None:
    """Nine pictures; and a classifier on it refuses another encoder."""
    whole, small = json.loads(emoji_split.read_text()), tmp_path / "nine.json"
    train = [entry for c in range(3) for entry in [e for e in whole["train"] if e[1] == c][:2]]
    test = [entry for c in range(3) for entry in [e for e in whole["test"] if e[1] == c][:1]]
    small.write_text(json.dumps({"train": train, "test": test}))
    arguments = ("fewshot", EMOJI, "--split", small, "--model", "pocket-clip", "--out", tmp_path / "out")
    document = cli(
        *arguments, "--method", "linear-probe", "--shots", "2", "--seeds", "1", "--json", "--device", "cpu"
    ).json
    assert document["backbone"]["name"] == "pocket-clip"
    assert document["metrics"]["test"]["accuracy"]["mean"] > 60
    adapter = tmp_path / "out" / "adapters" / "linear-probe"
    assert load_classifier(adapter).n_features_in_ == 1896 + 768
    error = cli("predict", adapter, EMOJI / test[0][0], "--model", "pocket-lite").error
    assert "encoder.fingerprint: made for pocket-clip" in error


# -- what a run leaves


def test_one_class_folder_a_class_is_enough(fewshot_run: Cli, tmp_path: Path) -> None:
    """The defaults, but for the shots: auto, three seeds, tested on what is left."""
    outcome = fewshot_run("--shots", "2")
    assert outcome.code == 0
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (document["method"], document["seeds"]) == ("auto", [1, 2, 3])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("results.json", "skipped.json"),
        *("adapters", "predictions"),
    }


def test_a_csv_is_data_too(fewshot_run: Cli, colours: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(colours)},{path.parent.name}" for path in sorted(colours.glob("*/*.png"))]
    (tmp_path / "data.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    by_csv = fewshot_run("--split", tmp_path / "data.csv", "--shots", 1, "--json").json
    by_folder = fewshot_run("--shots", 1, "--json").json
    assert by_csv["metrics"] == by_folder["metrics"]
    assert by_csv["data"]["fingerprint"] == by_folder["data"]["fingerprint"]


def test_repeated_methods_shots_and_seeds_count_once(fewshot_run: Cli) -> None:
    document = fewshot_run("--method", "gda, zero-shot,gda", "--shots", "2,1,2", "--seeds", "3,3,1", "--json").json
    assert document["seeds"] == [3, 1]
    assert [(r["method"], r["shots"]) for r in document["runs"]] == [
        (m, k) for k in (1, 2) for m in ("gda", "zero-shot")
    ]


def test_all_photos_train_without_a_test(fewshot_run: Cli) -> None:
    outcome = fewshot_run("--shots", "all", "--method", "gda")
    assert outcome.code == 0
    assert "nothing is left to test it on" in outcome.err
    assert "cost at all photos" in outcome.out


def test_parameters_are_read_as_numbers_words_and_truth(fewshot_run: Cli) -> None:
    options = [f"--set={given}" for given in ("lr=1e-2", "epochs=1", "ratio=entropy", "train=true", "alpha=.5")]
    document = fewshot_run("--method", "xmadapter-paper", "--shots", 1, "--seeds", 1, *options, "--json").json
    (given,) = document["hyperparameters"]
    assert document["settings"]["set"] == {"lr": 0.01, "epochs": 1, "ratio": "entropy", "train": True, "alpha": 0.5}
    assert {name: given[name] for name in document["settings"]["set"]} == document["settings"]["set"]


def test_prompts_of_ones_own(fewshot_run: Cli, tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps({"templates": ["the {}"], "descriptions": {"RED": ["a heart"]}}))
    document = fewshot_run("--shots", 1, "--prompts", tmp_path / "prompts.json", "--json").json
    assert document["settings"]["templates"] == ["the {}"]
    assert document["settings"]["descriptions"] == 1


def test_a_bad_image_costs_that_image_and_is_listed(fewshot_run: Cli, tmp_path: Path) -> None:
    data = make_colours(tmp_path / "data", 4)
    (data / "red" / "0_0.png").write_bytes(b"no image")
    outcome = fewshot_run("--shots", 2, data=data)
    assert outcome.code == 0
    assert f"1 image(s) could not be used: {tmp_path / 'out' / 'skipped.json'}" in outcome.err
    (skipped,) = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert skipped["path"] == str(data / "red" / "0_0.png")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["skipped_images"] == 1


def test_file_names_that_are_not_utf_8(fewshot_run: Cli, tmp_path: Path) -> None:
    data = make_colours(tmp_path / "data", 2)
    for path in list(data.glob("*/*.png")):
        path.rename(path.with_name(os.fsdecode(b"\xff") + path.name))
    outcome = fewshot_run("--shots", 1, data=data)
    assert (outcome.code, "Traceback" in outcome.err) == (0, False)
    config = json.loads((tmp_path / "out" / "adapters" / "auto" / "adapter_config.json").read_bytes())
    assert {Path(path).parent.parent for path in config["extra"]["support"]} == {data}
    assert all(Path(path).is_file() for path in config["extra"]["support"])


def test_draft_decoding_goes_with_the_adapter(cli: Cli, colours: Path, tiny_clip: Path, tmp_path: Path) -> None:
    common = ("fewshot", colours, "--model", tiny_clip, "--shots", 2, "--seeds", 1, "--device", "cpu", "--json")
    exact, draft = (cli(*common, "--out", tmp_path / str(len(o)), *o).json["backbone"] for o in ((), ("--draft",)))
    assert (exact["draft"], draft["draft"]) == (False, True)
    assert exact["fingerprint"] != draft["fingerprint"]
    photo = colours / "red" / "0_6.png"
    answer = cli("predict", tmp_path / "1", photo, "--device", "cpu", "--json").json
    assert answer["predictions"][0]["label"] == "red"
