"""predictions/ holds what was answered image by image, and nothing of an earlier run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli


def read(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def test_every_test_image_has_its_truth_and_answer(fewshot_run: Cli, tmp_path: Path, colours: Path) -> None:
    document = fewshot_run("--shots", "1,2", "--method", "gda,proker", "--seeds", "3,1", "--json").json
    written = read(tmp_path / "out" / "predictions")
    assert written.keys() == {"images", "gda", "proker"}
    images = written.pop("images")
    assert Path(images["root"]) == colours
    test = images["tests"]["test"]
    paths = [colours / name for name in images["support"]["images"] + test["images"]]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths]
    assert images["support"]["sha256"] + test["sha256"] == digests
    assert len(set(paths)) == 21
    for method, one in written.items():
        assert (one["method"], one["shots"], one["seed"]) == (method, 2, 3)
        assert [one["classes"][row] for row in test["truth"]] == [Path(name).parent.name for name in test["images"]]
        answers = one["tests"]["test"]
        right = [t == p for t, p in zip(test["truth"], answers["predicted"], strict=True)]
        (record,) = [r for r in document["runs"] if (r["method"], r["shots"]) == (method, 2)]
        assert 100 * sum(right) / len(right) == pytest.approx(record["metrics"]["test"]["accuracy"]["per_seed"][0])
        assert [row[0] for row in answers["top"]] == answers["predicted"]
        assert [row[0] for row in answers["top_probability"]] == answers["probability"]
        assert (answers["evidence"] is None) == (method == "gda")


def test_a_later_run_leaves_nothing_of_the_earlier(fewshot_run: Cli, tmp_path: Path) -> None:
    fewshot_run("--shots", 1, "--method", "gda,proker", "--seeds", 1)
    fewshot_run("--shots", 1, "--method", "gda", "--seeds", 1)
    assert read(tmp_path / "out" / "predictions").keys() == {"images", "gda"}
    fewshot_run("--shots", "all", "--method", "gda", "--seeds", 1)
    assert read(tmp_path / "out" / "predictions") == {}
