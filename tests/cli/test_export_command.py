"""`crossgraft export`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Cli
from crossgraft.fewshot import NearestMean, save_classifier


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    return save_classifier(NearestMean().fit(X, np.repeat(["ant", "bee"], 3)), tmp_path / "adapter")


def test_it_prints_what_it_wrote(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "head.onnx"
    printed = cli("export", adapter, "--out", file, "--head-only", "--json").json
    assert printed == {"file": str(file)} | json.loads((tmp_path / "new" / "head.onnx.json").read_text())
    assert file.stat().st_size == printed["bytes"]
    assert (printed["input"], printed["classes"], printed["linear"]) == ("features", ["ant", "bee"], True)


def test_in_words(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    outcome = cli("export", adapter, "--out", tmp_path / "head.onnx", "--head-only")
    assert (outcome.code, outcome.out) == (0, "")
    assert "head.onnx: nearest-mean, 2 classes, " in outcome.err
    assert "64 of 64 labels the same" in outcome.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--out", "head.pt"), "ends in .onnx"),
        (("--out", "head.onnx", "--opset", 7), "opset 7 cannot be written"),
        (("--out", "head.onnx"), "only adapters of `crossgraft fewshot` can predict images"),
        (("--out", "adapter/adapter_config.json/head.onnx", "--head-only"), "no folder that can be written to"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    cli: Cli, adapter: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], said: str
) -> None:
    monkeypatch.chdir(adapter.parent)
    outcome = cli("export", adapter, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err.splitlines()[-1]
    assert not Path("head.onnx").exists()


def test_a_folder_without_an_adapter(cli: Cli, tmp_path: Path) -> None:
    assert "no adapter here" in cli("export", tmp_path, "--out", tmp_path / "m.onnx").err
