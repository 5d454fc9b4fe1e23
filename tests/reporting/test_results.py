"""results.json says what was run, on what, and what came out."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from crossgraft.encoders.base import Encoder
from crossgraft.encoders.load import load_encoder
from crossgraft.fewshot.data import load_data
from crossgraft.fewshot.run import FewShotRun, run_fewshot
from crossgraft.reporting.results import few_shot_results, peak_memory_mb, summary

SEEDS = [1, 2, 3]


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load_encoder(str(tiny_clip), device="cpu")


@pytest.fixture(scope="module")
def run(colours: Path, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> FewShotRun:
    store = tmp_path_factory.mktemp("features") / "store"
    methods = ["zero-shot", "xmadapter-paper"]
    return run_fewshot(
        load_data(colours), encoder, store, methods=methods, shots=[1, 2], seeds=SEEDS, params={"epochs": 2}
    )


def document(run: FewShotRun, encoder: Encoder) -> dict[str, Any]:
    written = few_shot_results(run, encoder, protocol="none", seeds=SEEDS, settings={"key": "feature"})
    return json.loads(json.dumps(written, allow_nan=False))


def test_summary() -> None:
    assert summary([3.0]) == {"mean": 3.0, "std": 0.0, "per_seed": [3.0]}
    assert summary([1.0, 2.0, 6.0]) == {
        "mean": 3.0,
        "std": pytest.approx(stdev([1, 2, 6])),
        "per_seed": [1.0, 2.0, 6.0],
    }


def test_the_document_names_everything_a_reader_needs(run: FewShotRun, encoder: Encoder) -> None:
    written = document(run, encoder)
    assert (written["schema_version"], written["task"]) == (1, "few-shot classification")
    assert (written["protocol"], written["seeds"], written["settings"]) == ("none", SEEDS, {"key": "feature"})
    assert written["backbone"] == {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dtype": "float32",
        "draft": False,
        "device": "cpu",
    }
    assert written["data"] == {"name": "colours", "fingerprint": run.data.fingerprint, "classes": 3}
    assert (written["skipped_images"], written["warnings"]) == (0, [])
    assert {"crossgraft", "python", "torch", "transformers", "numpy", "scikit-learn", "pillow"} == written[
        "versions"
    ].keys()
    assert written["peak_memory_mb"] > 50
    assert [(r["method"], r["shots"]) for r in written["runs"]] == [
        ("zero-shot", 1),
        ("xmadapter-paper", 1),
        ("zero-shot", 2),
        ("xmadapter-paper", 2),
    ]
    assert "metrics" not in written  # four records: none of them is the result


def test_a_record_holds_every_seeds_score_and_the_cost(run: FewShotRun, encoder: Encoder) -> None:
    for record in document(run, encoder)["runs"]:
        fits = [fit for fit in run.fits if (fit.method, fit.shots) == (record["method"], record["shots"])]
        assert [fit.seed for fit in fits] == SEEDS
        for name in ("accuracy", "macro_accuracy"):
            assert record["metrics"]["test"][name]["per_seed"] == [fit.metrics["test"][name] for fit in fits]
        assert record["support_images"] == 3 * record["shots"]
        assert len(record["hyperparameters"]) == 3
        assert "text" not in record["hyperparameters"][0]
        trained, total = record["parameters"]["trainable"], record["parameters"]["total"]
        assert total == encoder.n_parameters + trained
        assert record["parameters"]["percent"] == pytest.approx(100 * trained / total)
        assert (trained > 0) == (record["method"] == "xmadapter-paper")
        assert record["seconds"]["fit"]["mean"] > 0
        assert len(record["microseconds_per_query"]["per_seed"]) == 3
    xmadapter = document(run, encoder)["runs"][1]["hyperparameters"]
    assert [given["random_state"] for given in xmadapter] == SEEDS
    assert {given["epochs"] for given in xmadapter} == {2}


def test_one_record_is_the_result_itself(run: FewShotRun, encoder: Encoder) -> None:
    one = FewShotRun(
        run.data, run.text, [fit for fit in run.fits if (fit.method, fit.shots) == ("xmadapter-paper", 2)], []
    )
    written = document(one, encoder)
    assert {key: written[key] for key in written["runs"][0]} == written["runs"][0]
    assert written["metrics"]["test"]["accuracy"].keys() == {"mean", "std", "per_seed"}


def test_memory_is_counted_in_megabytes() -> None:
    before = peak_memory_mb()
    block = bytearray(b"x") * (int(before) + 100) * 2**20
    assert before + 50 < peak_memory_mb() < 20 * before + len(block)
