"""`crossgraft fewshot` on bad input: exit code 2, one line that says what is wrong, no output folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import Cli, make_colours, save_clip


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--method", "xmadaptor"], "unknown method 'xmadaptor'; did you mean 'xmadapter'?"),
        (["--method", "gda,"], "--method is 'gda,': expected one value, or several with commas"),
        (["--protocol", "test"], "protocol 'test' is unknown: choose from none, min4, full"),
        (["--protocol", "full", "--shots", "1"], "protocol full needs a validation split"),
        (["--shots", "0"], "--shots: '0' is not a whole number from 1"),
        (["--shots", "1.5"], "--shots: '1.5' is not"),
        (["--shots", ""], "--shots is ''"),
        (["--shots", "8"], "3 of 3 classes have too few images for 8 shots"),
        (["--shots", "all", "--protocol", "min4"], "shots all leaves nothing to validate on"),
        (["--shots", "1", "--protocol", "min4", "--set", "alpha=2"], "alpha of xmadapter-paper: set, and searched"),
        (["--shots", "1", "--set", "lr=-1"], "lr=-1; expected more than 0"),
        (["--seeds", "-1"], "--seeds: '-1' is not"),
        (["--seeds", "1,two"], "--seeds: 'two' is not"),
        (["--seeds", "9" * 5000], "--seeds: '999"),
        (["--set", "beta"], "--set 'beta': expected name=value"),
        (["--set", "=3"], "--set '=3': expected name=value"),
        (["--set", "alpha=[1, 2]"], "--set 'alpha=[1, 2]': expected a number"),
        (["--set", "alpha={"], "--set 'alpha={': the value cannot be read"),
        (["--set", "alpha=2026-99-99"], "--set 'alpha=2026-99-99': the value cannot be read"),
        (["--shots", "1", "--set", "alpha=.nan"], "alpha='nan'; expected a finite number"),
        (["--shots", "1", "--set", "alpha=large"], "alpha='large'; expected a finite number"),
        (["--shots", "1", "--set", "mask=perhaps"], "mask='perhaps'; expected true or false"),
        (["--shots", "1", "--set", "betta=3"], "no chosen method has a parameter betta"),
        (["--key", "pixels"], "--key is 'pixels': choose feature or embedding"),
        (["--prompts", "nowhere.json"], "nowhere.json: no such file"),
        (["--test", "nowhere"], "nowhere: no such file or folder"),
        (["--dtype", "float16"], "dtype 'float16' is unknown"),
    ],
)
def test_bad_options(fewshot_run: Cli, tmp_path: Path, options: list[str], reason: str) -> None:
    assert reason in fewshot_run("--method", "xmadapter-paper", *options).error
    assert not (tmp_path / "out").exists()


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def one_class(data: Path) -> None:
    shutil.rmtree(data / "red")
    shutil.rmtree(data / "green")


def empty_class(data: Path) -> None:
    for path in (data / "red").iterdir():
        path.unlink()


def all_unreadable(data: Path) -> None:
    for number, path in enumerate(data.glob("*/*.png")):
        path.write_bytes(b"no image %d" % number)


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (shutil.rmtree, "no such file or folder"),
    "empty": (emptied, "no image; expected a folder per class"),
    "one class": (one_class, "only one class"),
    "an empty class": (empty_class, "no image in the class folders 'red'"),
    "no readable image": (all_unreadable, "images cannot be read, the first: "),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD_FOLDERS.values(), ids=BAD_FOLDERS.keys())
def test_bad_folders(fewshot_run: Cli, tmp_path: Path, spoil: Callable[[Path], object], reason: str) -> None:
    data = make_colours(tmp_path / "data", 3)
    spoil(data)
    assert reason in fewshot_run("--shots", 1, data=data).error
    assert not (tmp_path / "out").exists()


def entries(*names: str) -> list[list[Any]]:
    return [[f"{name}/0_{i}.png", ["blue", "green", "red"].index(name), name] for name in names for i in range(2)]


BAD_SPLITS: dict[str, tuple[Any, str]] = {
    "missing paths": ({"train": [*entries("blue", "green"), ["red/x.png", 2, "red"]]}, "images are missing below"),
    "an unseen test label": ({"train": entries("blue", "green"), "test": entries("red")}, "training lacks: 'red'"),
    "no training image": ({"test": entries("blue", "green")}, "no training image"),
    "no object": ([1, 2], "expected an object with the keys"),
    "one name of two labels": (
        {"train": [["red/0_0.png", 0, "red"], ["red/0_1.png", 1, "red"]]},
        "one name, one label",
    ),
    "a path outside": ({"train": [["../secret.png", 0, "red"]]}, "leaves the image root"),
}


@pytest.mark.parametrize(("split", "reason"), BAD_SPLITS.values(), ids=BAD_SPLITS.keys())
def test_bad_splits(fewshot_run: Cli, tmp_path: Path, split: Any, reason: str) -> None:
    (tmp_path / "split.json").write_text(json.dumps(split))
    assert reason in fewshot_run("--split", tmp_path / "split.json", "--shots", 1).error
    assert not (tmp_path / "out").exists()


def test_a_test_set_with_a_class_that_training_lacks(fewshot_run: Cli, tmp_path: Path) -> None:
    other = make_colours(tmp_path / "other", 1)
    (other / "red").rename(other / "violet")
    assert "classes that training lacks: 'violet'" in fewshot_run("--shots", 1, "--test", other).error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/below/it"])
def test_an_output_folder_that_cannot_be_made_is_refused_before_the_work(
    fewshot_run: Cli, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("precious")
    error = fewshot_run("--out", tmp_path / place, "--shots", 1).error
    assert f"{tmp_path / 'file'} is no folder that can be written to" in error
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "store").exists()


def test_a_model_that_is_not_there(fewshot_run: Cli, tmp_path: Path) -> None:
    assert "cannot load 'no/such-model'" in fewshot_run(model="no/such-model").error
    assert not (tmp_path / "out").exists()


# -- bad feature stores


def edit_shard(store: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    (shard,) = (store / "shards").iterdir()
    with safe_open(shard, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(shard)
    edit(tensors)
    save_file(tensors, shard, metadata)


def foreign(store: Path) -> None:
    emptied(store)
    (store / "x").touch()


def cut_shard(store: Path) -> None:
    (shard,) = (store / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-100])


SPOILED_STORES: dict[str, tuple[Callable[[Path], object], str]] = {
    "NaN": (lambda store: edit_shard(store, lambda t: t["feature"].fill_(float("nan"))), "holds NaN or infinity"),
    "another width": (
        lambda s: edit_shard(s, lambda t: t.update(feature=t["feature"][:, :5].clone())),
        "expected float32",
    ),
    "a truncated shard": (cut_shard, "damaged"),
    "a truncated plan": (lambda store: (store / "store.json").write_text('{"schema'), "not JSON"),
    "a hostile plan": (lambda store: (store / "store.json").write_text('{"schema_version": 1}'), "store.json"),
    "no store at all": (foreign, "no feature store"),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILED_STORES.values(), ids=SPOILED_STORES.keys())
def test_bad_stores(fewshot_run: Cli, tmp_path: Path, spoil: Callable[[Path], object], reason: str) -> None:
    assert fewshot_run("--shots", 1, "--seeds", 1).code == 0
    shutil.rmtree(tmp_path / "out")
    spoil(tmp_path / "store")
    assert reason in fewshot_run("--shots", 1, "--seeds", 1).error
    assert not (tmp_path / "out").exists()


def test_a_store_of_another_encoder(fewshot_run: Cli, tmp_path: Path) -> None:
    assert fewshot_run("--shots", 1, "--seeds", 1).code == 0
    shutil.rmtree(tmp_path / "out")
    error = fewshot_run("--shots", 1, model=save_clip(tmp_path / "other-clip", seed=1)).error
    assert "made by encoder" in error
    assert "other-clip" in error
    assert not (tmp_path / "out").exists()
