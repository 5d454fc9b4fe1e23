"""Milliseconds from an image file to its class with a loaded classifier, one image at a time.

    python benchmarks/predict.py [--model pocket-lite ...] [--repeats 30]

Fits ProKeR on the demo's emoji, saves and loads it, and predicts the demo's pictures one by one: reading,
preprocessing, encoding and classifying. Loading and the first prediction are reported apart. Writes
benchmarks/results/predict.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from crossgraft.encoders.load import load_encoder
from crossgraft.fewshot.data import load_data, sample_support
from crossgraft.fewshot.persist import save_classifier
from crossgraft.fewshot.predictor import Predictor
from crossgraft.fewshot.run import run_fewshot
from crossgraft.files import write_json
from crossgraft.reporting.results import versions

RESULTS = Path(__file__).parent / "results" / "predict.json"
EMOJI = Path(__file__).parent.parent / "demo" / "emoji"


def measure(model: str, dtype: str, folder: Path, repeats: int) -> dict[str, Any]:
    encoder = load_encoder(model, dtype=dtype)
    data = load_data(EMOJI / "noto.json")
    one_each = data.train.take(sample_support(data.train, len(data.classes), 1, seed=1))
    data = replace(data, train=one_each, test=None)
    run = run_fewshot(data, encoder, folder / "store", methods=["proker"], shots=["all"], seeds=[1], progress=False)
    fitted = run.fits[0].classifier
    adapter = save_classifier(fitted, folder / "adapter", encoder=encoder.identity, extra={"key": "feature"})
    start = time.perf_counter()
    predictor = Predictor.load(adapter)
    loaded = time.perf_counter()
    photos = sorted((EMOJI / "fluent").rglob("*.webp"))[: repeats + 1]
    predictor(photos[:1])
    first = time.perf_counter()
    times = []
    for photo in photos[1:]:
        begin = time.perf_counter()
        predictor([photo])
        times.append((time.perf_counter() - begin) * 1000)
    return {
        "load_ms": (loaded - start) * 1000,
        "first_ms": (first - loaded) * 1000,
        "median_ms": statistics.median(times),
        "worst_ms": max(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="repeatable; default both pocket models")
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    results = {}
    table = Table("encoder", "load ms", "first ms", "median ms", "worst ms", title="predict one image, warm")
    for model in arguments.model or ["pocket-lite", "pocket-clip"]:
        for dtype in ("float32", "bfloat16"):
            with tempfile.TemporaryDirectory() as folder:
                result = measure(model, dtype, Path(folder), arguments.repeats)
            results[f"{model}, {dtype}"] = result
            table.add_row(f"{model}, {dtype}", *(f"{value:.0f}" for value in result.values()))
    Console().print(table)
    machine = {"processor": platform.machine(), "cpu_count": os.cpu_count()}
    write_json(RESULTS, {"encoders": results, "machine": machine, "versions": versions()})


if __name__ == "__main__":
    main()
