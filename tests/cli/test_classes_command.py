"""`crossgraft classes`, and what `crossgraft predict --reject` says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Cli, make_colours
from crossgraft.encoders.load import load_encoder
from crossgraft.fewshot import load_classifier
from crossgraft.fewshot.persist import read_config, save_classifier
from crossgraft.fewshot.predictor import Predictor


@pytest.fixture(scope="module")
def adapters(cli: Cli, colours: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapters/ folder of a run on the tiny encoder."""
    folder = tmp_path_factory.mktemp("run")
    options = ("--method", "tip-adapter,nearest-mean,linear-probe", "--shots", 3, "--seeds", 1, "--device", "cpu")
    outcome = cli(
        "fewshot", colours, "--model", tiny_clip, "--out", folder / "out", "--store", folder / "store", *options
    )
    assert outcome.code == 0, outcome.err
    return folder / "out" / "adapters"


@pytest.fixture(scope="module")
def yellow(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photos of a class that the adapters do not know."""
    return sorted((make_colours(tmp_path_factory.mktemp("more") / "colours", 4, seed=9) / "red").iterdir())


def test_a_class_is_added_used_and_removed(
    cli: Cli, adapters: Path, yellow: list[Path], colours: Path, tmp_path: Path
) -> None:
    source, grown, shrunk = adapters / "tip-adapter", tmp_path / "grown", tmp_path / "shrunk"
    assert cli("classes", source, "list").out.split() == ["blue", "green", "red"]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    outcome = cli("classes", source, "add", "bright yellow", *yellow, broken, "--out", grown, "--json")
    assert outcome.code == 0, outcome.err
    skipped = outcome.json["skipped"]
    assert list(skipped) == [str(broken)]
    assert outcome.json == {
        "adapter": str(grown),
        "method": "tip-adapter",
        "classes": ["blue", "green", "red", "bright yellow"],
        "added": "bright yellow",
        "photos": 4,
        "skipped": skipped,
    }
    assert cli("classes", grown, "list", "--json").json["classes"][-1] == "bright yellow"

    # It is what the classifier itself makes of the encoder's features and texts.
    predictor = Predictor.load(source, device="cpu")
    X, _ = predictor.features(yellow)
    text = load_encoder(predictor.config["encoder"]["name"], device="cpu").encode_texts(["a photo of a bright yellow."])
    own = predictor.classifier.add_class(X, "bright yellow", text)
    queries, _ = predictor.features([*yellow, *sorted((colours / "blue").iterdir())])
    np.testing.assert_allclose(load_classifier(grown).predict_proba(queries), own.predict_proba(queries), atol=1e-6)
    support = read_config(grown)["extra"]["support"]
    assert support[:-4] == read_config(source)["extra"]["support"]
    assert support[-4:] == [str(path) for path in yellow]
    vote = cli("predict", grown, yellow[0], "--json", "--explain").json["predictions"][0]["evidence"]["supports"][0]
    assert vote["image"] == support[vote["index"]]

    assert cli("classes", grown, "remove", "green", "--out", shrunk).out == f"{shrunk}: 3 classes\n"
    extra = read_config(shrunk)["extra"]
    assert extra["changes"] == [{"added": "bright yellow", "photos": 4}, {"removed": "green"}]
    assert [Path(path).parent.name for path in extra["support"]] == ["blue"] * 3 + ["red"] * 7
    prediction = cli("predict", shrunk, yellow[0], colours / "blue" / "0_6.png", "--json").json["predictions"][1]
    assert prediction["label"] == "blue"
    assert set(prediction["probabilities"]) == {"blue", "red", "bright yellow"}


def test_in_place_and_without_knowing_whose_the_photos_are(cli: Cli, adapters: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapters / "nearest-mean", tmp_path / "adapter"))
    assert cli("classes", folder, "remove", "green", "--in-place", "--json").json == {
        "adapter": str(folder),
        "method": "nearest-mean",
        "classes": ["blue", "red"],
        "removed": "green",
    }
    assert "support" not in read_config(folder)["extra"]
    error = cli("classes", folder, "remove", "red", "--in-place").error
    assert error.startswith("only one class would be left")


def test_bad_input(cli: Cli, adapters: Path, yellow: list[Path], tmp_path: Path) -> None:
    source, out = adapters / "tip-adapter", ("--out", tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for arguments, message in [
        (("remove", "pink", *out), "no class 'pink'; known: blue, green, red"),
        (("remove", "red"), "give --out NEW_DIR for a new adapter, or --in-place"),
        (("remove", "red", *out, "--in-place"), "give --out NEW_DIR for a new adapter, or --in-place"),
        (("remove", "red", "--out", source), "is the adapter itself"),
        (("remove", "red", "--out", tmp_path / "full"), "holds other files (mine.txt)"),
        (("add", "Red", yellow[0], *out), "there is a class 'red' already"),
        (("add", " _ ", yellow[0], *out), "the name of the new class is empty"),
        (("add", "pink", tmp_path / "absent.png", *out), "no photo of 'pink' could be read"),
    ]:
        outcome = cli("classes", source, *arguments)
        assert outcome.code == 2
        assert message in outcome.err
        assert not (tmp_path / "new").exists()
    assert "fit again" in cli("classes", adapters / "linear-probe", "add", "pink", yellow[0], *out).error
    assert "holds 3 adapters; name one" in cli("classes", adapters.parent, "list").error


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"templates": 7}, "extra.templates: expected a list of texts"),
        ({"templates": []}, "describe the new one by --text"),
    ],
)
def test_an_adapter_whose_texts_are_not_known(
    cli: Cli, adapters: Path, yellow: list[Path], tmp_path: Path, extra: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(adapters / "tip-adapter", tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["extra"] |= extra | {"views": 2, "descriptions": 3}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert message in cli("classes", folder, "add", "pink", yellow[0], "--in-place").error
    if extra["templates"] == []:
        described = cli("classes", folder, "add", "pink", yellow[0], "--in-place", "--text", "a red thing")
        assert described.code == 0
        assert "augmented views; the new class's are taken as they are" in described.err


@pytest.fixture(scope="module")
def calibrated(adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nearest mean of seven photos a class, calibrated on them."""
    predictor = Predictor.load(adapters / "nearest-mean", device="cpu")
    root = Path(predictor.config["extra"]["support"][0]).parent.parent
    images = sorted(root.glob("*/*.png"))
    X, _ = predictor.features(images)
    classifier = predictor.classifier.fit(X, [image.parent.name for image in images]).calibrate()
    folder = tmp_path_factory.mktemp("calibrated") / "nearest-mean"
    extra = predictor.config["extra"] | {"support": [str(image) for image in images]}
    return save_classifier(classifier, folder, encoder=predictor.config["encoder"], extra=extra)


def test_labels_are_named_where_they_are_sure_enough(cli: Cli, calibrated: Path, colours: Path) -> None:
    images = [*sorted((colours / "red").iterdir()), *sorted((colours / "blue").iterdir())]
    answer = cli("predict", calibrated, *images, "--reject", 0.85, "--json").json
    threshold = load_classifier(calibrated).threshold(0.85)
    assert answer["reject"] == {"accuracy": 0.85, "threshold": threshold}
    for prediction in answer["predictions"]:
        best, probability = next(iter(prediction["probabilities"].items()))
        assert prediction["probability"] == probability
        assert prediction["unsure"] == (probability < threshold)
        assert prediction["label"] == (None if prediction["unsure"] else best)
    assert {prediction["unsure"] for prediction in answer["predictions"]} == {False, True}
    lines = cli("predict", calibrated, *images, "--reject", 0.85).out.splitlines()
    unsure = [prediction["unsure"] for prediction in answer["predictions"]]
    assert [": unsure (" in line for line in lines] == unsure
    assert cli("predict", calibrated, images[0], "--json").json["reject"] is None


def test_a_threshold_that_is_not_there_is_said(cli: Cli, calibrated: Path, colours: Path, tmp_path: Path) -> None:
    photo = colours / "red" / "0_0.png"
    assert "21 out-of-fold predictions cannot show" in cli("predict", calibrated, photo, "--reject", 0.99).error
    assert "between 0 and 1" in cli("predict", calibrated, photo, "--reject", 95).error
    folder = tmp_path / "edited"
    note = cli("classes", calibrated, "add", "pink", photo, "--out", folder).err
    assert "for a reject threshold (--reject) fit again" in note
    assert "no reject threshold" in cli("predict", folder, photo, "--reject", 0.8).error
