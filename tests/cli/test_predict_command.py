"""`crossgraft predict`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import EMOJI, Cli, save_clip
from crossgraft.encoders.load import load_encoder
from crossgraft.fewshot import load_classifier


@pytest.fixture(scope="module")
def adapters(cli: Cli, colours: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapters/ folder of a run on the tiny encoder: XMAdapter and a linear probe."""
    folder = tmp_path_factory.mktemp("run")
    options = ("--method", "xmadapter,linear-probe", "--shots", 3, "--seeds", 1, "--device", "cpu")
    outcome = cli(
        "fewshot", colours, "--model", tiny_clip, "--out", folder / "out", "--store", folder / "store", *options
    )
    assert outcome.code == 0, outcome.err
    return folder / "out" / "adapters"


@pytest.mark.pocket
def test_predictions_on_real_images_are_the_saved_classifiers(
    cli: Cli, pocket_home: Path, emoji_split: Path, tmp_path: Path
) -> None:
    arguments = ("fewshot", EMOJI, "--split", emoji_split, "--model", "pocket-lite", "--out", tmp_path / "out")
    options = ("--method", "xmadapter", "--shots", "4", "--seeds", "1", "--device", "cpu")
    assert cli(*arguments, *options).code == 0
    images = [EMOJI / entry[0] for entry in json.loads(emoji_split.read_text())["test"][::3]]
    printed = cli("predict", tmp_path / "out", *images, "--json", "--explain", "--device", "cpu").json
    assert (printed["adapter"], printed["method"]) == (str(tmp_path / "out"), "xmadapter")
    encoder = load_encoder("pocket-lite", device="cpu")
    output = encoder.encode_images(torch.stack([encoder.preprocess(path) for path in images]))
    X = torch.cat([output.embedding, output.feature], dim=1)
    classifier = load_classifier(tmp_path / "out" / "adapters" / "xmadapter", encoder_fingerprint=encoder.fingerprint)
    support = json.loads((tmp_path / "out" / "adapters" / "xmadapter" / "adapter_config.json").read_text())["extra"][
        "support"
    ]
    everything = zip(images, printed["predictions"], classifier.predict_proba(X), classifier.explain(X), strict=True)
    for path, prediction, row, own in everything:
        assert prediction["image"] == str(path)
        assert prediction["error"] is None
        assert prediction["label"] == own.label == classifier.classes_[row.argmax()]
        assert prediction["probabilities"] == pytest.approx(
            dict(zip(classifier.classes_, row.tolist(), strict=True)), abs=1e-4
        )
        evidence = prediction["evidence"]
        assert evidence["text_share"] + evidence["image_share"] == pytest.approx(1)
        assert evidence["text_share"] == pytest.approx(own.text_share, abs=1e-3)
        for vote, ours in zip(evidence["supports"], own.supports, strict=True):
            assert vote["contribution"] == pytest.approx(ours.contribution, abs=1e-3)
            assert vote["image"] == support[vote["index"]]
            assert Path(vote["image"]).parent.name == vote["label"]


def test_text_output_has_a_line_an_image_and_its_evidence(cli: Cli, adapters: Path, colours: Path) -> None:
    images = [colours / "red" / "0_6.png", colours / "blue" / "0_6.png"]
    outcome = cli("predict", adapters / "xmadapter", *images, "--top", 2)
    assert (outcome.code, outcome.err) == (0, "")
    for line, image in zip(outcome.out.splitlines(), images, strict=True):
        assert line.startswith(f"{image}: ")
        assert line.count("%") == 2
    lines = cli("predict", adapters / "xmadapter", images[0], "--explain").out.splitlines()
    assert lines[1].startswith("  texts ")
    assert "(ratio " in lines[1]
    assert lines[2].startswith("  nearest texts: ")
    assert len(lines) == 3 + 5
    assert all(str(colours) in line for line in lines[3:])


def test_a_broken_image_among_good_ones_costs_itself(cli: Cli, adapters: Path, colours: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((colours / "red" / "0_0.png").read_bytes()[:100])
    images = [colours / "red" / "0_6.png", broken, tmp_path / "absent.png", colours / "blue" / "0_6.png"]
    outcome = cli("predict", adapters / "linear-probe", *images, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    predictions = outcome.json["predictions"]
    assert [prediction["image"] for prediction in predictions] == list(map(str, images))
    assert [prediction["label"] for prediction in predictions] == ["red", None, None, "blue"]
    assert predictions[2] == {
        "image": str(images[2]),
        "label": None,
        "probability": None,
        "probabilities": {},
        "error": "no such file",
        "evidence": None,
        "unsure": False,
    }
    outcome = cli("predict", adapters / "linear-probe", *images)
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 2
    assert f"{images[2]}: skipped, no such file" in outcome.err


def test_broken_images_alone_are_bad_input(cli: Cli, adapters: Path, tmp_path: Path) -> None:
    error = cli("predict", adapters / "linear-probe", tmp_path / "absent.png").error
    assert error == f"no image could be read: {tmp_path / 'absent.png'}: no such file"
    for_scripts = cli("predict", adapters / "linear-probe", tmp_path / "absent.png", "--json")
    assert for_scripts.code == 2
    assert for_scripts.json["predictions"][0]["error"] == "no such file"


def test_a_file_name_that_is_not_utf_8(cli: Cli, adapters: Path, colours: Path, tmp_path: Path) -> None:
    image = tmp_path / os.fsdecode(b"\xff.png")
    shutil.copy(colours / "red" / "0_6.png", image)
    (prediction,) = cli("predict", adapters / "linear-probe", image, "--json").json["predictions"]
    assert prediction["label"] == "red"
    assert cli("predict", adapters / "linear-probe", image).code == 0


def test_a_method_without_evidence_says_so(cli: Cli, adapters: Path, colours: Path) -> None:
    error = cli("predict", adapters / "linear-probe", colours / "red" / "0_6.png", "--explain").error
    assert error.startswith("method linear-probe keeps no evidence to explain")


def test_a_run_of_several_adapters_asks_for_one(cli: Cli, adapters: Path, colours: Path) -> None:
    assert "holds 2 adapters; name one" in cli("predict", adapters.parent, colours / "red" / "0_6.png").error
    assert "no adapter here" in cli("predict", colours, colours / "red" / "0_6.png").error


def test_another_encoder_is_refused(cli: Cli, adapters: Path, colours: Path, tmp_path: Path) -> None:
    other = save_clip(tmp_path / "other", seed=1)
    error = cli("predict", adapters / "xmadapter", colours / "red" / "0_6.png", "--model", other).error
    assert "encoder.fingerprint: made for" in error


Damage = Callable[[Path], object]


def edited(**values: Any) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


def cut(name: str, size: int) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def write(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


DAMAGE: dict[str, Damage] = {
    "half the tensors": cut("adapter_model.safetensors", 1000),
    "no tensors": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "an empty file of tensors": cut("adapter_model.safetensors", 0),
    "a header longer than the file": write("adapter_model.safetensors", b"\xff" * 8 + b"{}"),
    "a pickle for tensors": write("adapter_model.safetensors", b"\x80\x04cos\nsystem\n."),
    "half the configuration": cut("adapter_config.json", 200),
    "an empty configuration": cut("adapter_config.json", 0),
    "deeply nested JSON": write("adapter_config.json", b"[" * 50_000),
    "a list": write("adapter_config.json", b"[]"),
    "binary": write("adapter_config.json", b"\xff\xfe\x00"),
    "no method": edited(method="os.system"),
    "another method": edited(method="gda"),
    "a later version": edited(schema_version=99),
    "other classes": edited(classes=["a", "b"]),
    "parameters of nothing": edited(params={"alpha": "rm -rf"}),
    "another encoder": edited(encoder={"name": "pocket-lite", "dtype": "float32", "fingerprint": "0" * 64}),
    "no encoder": edited(encoder=None),
    "another width": edited(n_features=7),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_or_hostile_adapter_is_refused_in_one_line(
    cli: Cli, adapters: Path, colours: Path, tmp_path: Path, damage: Damage
) -> None:
    folder = Path(shutil.copytree(adapters / "xmadapter", tmp_path / "adapter"))
    damage(folder)
    assert cli("predict", folder, colours / "red" / "0_6.png", "--json").error


def test_evidence_of_an_adapter_without_its_list_of_photos(
    cli: Cli, adapters: Path, colours: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapters / "xmadapter", tmp_path / "adapter"))
    extra = json.loads((folder / "adapter_config.json").read_text())["extra"]
    edited(extra={"key": extra["key"]})(folder)
    (prediction,) = cli("predict", folder, colours / "red" / "0_6.png", "--json", "--explain").json["predictions"]
    assert {vote["image"] for vote in prediction["evidence"]["supports"]} == {None}
