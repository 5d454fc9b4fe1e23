"""`crossgraft features`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from conftest import Cli, make_colours, save_clip
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.store import FeatureStore, content_hash


def test_images_are_encoded_once(cli: Cli, colours: Path, tiny_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    arguments = (
        "features",
        colours,
        "--model",
        tiny_clip,
        "--out",
        out,
        "--grid",
        "--shard-size",
        8,
        "--device",
        "cpu",
    )
    report = cli(*arguments, "--json").json
    encoder = load_encoder(str(tiny_clip), device="cpu")
    assert report["encoder"] == encoder.identity
    assert (report["store"], report["images"], report["encoded"], report["reused"]) == (str(out), 21, 21, 0)
    assert report["skipped"] == []
    store = FeatureStore.open(out)
    path = colours / "red" / "0_3.png"
    expected = encoder.encode_images(encoder.preprocess(path)[None], grid=True)
    for name in ("embedding", "feature", "grid"):
        ours = store.gather([content_hash(path)], name)
        torch.testing.assert_close(ours, getattr(expected, name), rtol=0, atol=1e-5)
    again = cli(*arguments)
    assert (again.code, again.out) == (0, "")
    assert "0 images encoded, 21 there already, 0 skipped" in again.err


def test_two_processes_fill_the_same_store(cli: Cli, colours: Path, tiny_clip: Path, tmp_path: Path) -> None:
    common = ("features", colours, "--model", tiny_clip, "--shard-size", 4, "--views", 1, "--device", "cpu")
    for workers in (1, 2):
        assert cli(*common, "--out", tmp_path / str(workers), "--workers", workers).code == 0
    one, two = (FeatureStore.open(tmp_path / name) for name in "12")
    assert two.hashes == one.hashes
    for name in ("feature", "embedding_views"):
        torch.testing.assert_close(two.gather(two.hashes, name), one.gather(one.hashes, name), rtol=0, atol=1e-5)


def test_a_bad_image_costs_that_image(cli: Cli, tiny_clip: Path, tmp_path: Path) -> None:
    data = make_colours(tmp_path / "data", 2)
    (data / "red" / "bad.png").write_bytes(b"no image")
    arguments = ("features", data, "--model", tiny_clip, "--out", tmp_path / "out")
    (skipped,) = cli(*arguments, "--json").json["skipped"]
    assert skipped["path"] == str(data / "red" / "bad.png")
    assert json.loads((tmp_path / "out" / "skipped.json").read_text()) == [skipped]
    outcome = cli(*arguments)
    assert outcome.code == 0
    assert f"skipped images and reasons: {tmp_path / 'out' / 'skipped.json'}" in outcome.err


def test_bad_images_alone_are_bad_input(cli: Cli, tiny_clip: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "bad.png").write_bytes(name.encode())
    error = cli("features", tmp_path / "data", "--model", tiny_clip, "--out", tmp_path / "out", "--json").error
    assert error.startswith("none of 2 images can be read; the reasons are in")


@pytest.mark.parametrize("kind", ["absent", "empty", "one class", "a text file"])
def test_bad_data_leaves_nothing_behind(cli: Cli, tiny_clip: Path, tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    if kind == "empty":
        data.mkdir()
    elif kind == "one class":
        make_colours(data, 2)
        shutil.rmtree(data / "red")
        shutil.rmtree(data / "blue")
    elif kind == "a text file":
        data.write_text("red")
    assert str(data) in cli("features", data, "--model", tiny_clip, "--out", tmp_path / "out").error
    assert not (tmp_path / "out").exists()


def test_a_bad_model_leaves_nothing_behind(cli: Cli, colours: Path, tmp_path: Path) -> None:
    for options in (("--model", "no-such-model"), ("--model", "pocket-lite"), ("--model", "x", "--device", "gpu")):
        assert cli("features", colours, *options, "--out", tmp_path / "out").error
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(cli: Cli, colours: Path, tiny_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    assert (
        "holds other files (thesis.txt)" in cli("features", colours, "-m", tiny_clip, "--out", tmp_path / "out").error
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_store_of_another_encoder_is_refused_and_kept(
    cli: Cli, colours: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert cli("features", colours, "--model", tiny_clip, "--out", out).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = save_clip(tmp_path / "other-clip", seed=1)
    error = cli("features", colours, "--model", other, "--out", out).error
    assert f"made by encoder {tiny_clip}" in error
    assert "other-clip" in error
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
