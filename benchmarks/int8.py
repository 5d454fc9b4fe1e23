"""What int8 costs in accuracy and gains in speed, on real photos, beside float32 and bfloat16 in one run.

    python benchmarks/int8.py DATA [--split FILE] [--model pocket-clip] [--classes 20] [--shots 8] [--tests 7]

Takes classes at equal distances from DATA and encodes the same photos in all three precisions, batch by batch in turn,
so that whatever else the machine does burdens all of them. Reports the cosine of features and embeddings to float32's,
images a second (of wall clock, and of processor time, which other programs disturb less), peak memory of a process that
loads only this encoder, and for classifiers fitted and tested in one precision: test accuracy, and how often they
predict what the float32 one does. Writes benchmarks/results/int8.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from common import machine, result_file
from crossgraft.encoders.base import Encoder
from crossgraft.encoders.encode_shards import default_batch_size, keep_freed_memory
from crossgraft.encoders.load import load_encoder
from crossgraft.encoders.prompts import Prompts
from crossgraft.fewshot import get_method
from crossgraft.fewshot.data import ImageSplit, load_data, sample_support
from crossgraft.files import write_json
from crossgraft.reporting.results import peak_memory_mb, versions

DTYPES = ("float32", "bfloat16", "int8")
METHODS = ("linear-probe", "proker", "xmadapter")
MEMORY_IMAGES = 8


def choose(data: Path, split: Path | None, n_classes: int, photos: int) -> tuple[list[Path], list[str]]:
    """So many training photos of each of `n_classes` classes -> paths and class names, grouped by class."""
    images = load_data(data, split=split)
    step = max(1, len(images.classes) // n_classes)
    rows = {row: new for new, row in enumerate(range(0, step * n_classes, step))}
    kept = [i for i, label in enumerate(images.train.labels) if label in rows]
    part = images.train.take(kept)
    part = ImageSplit(part.paths, tuple(rows[label] for label in part.labels))
    chosen = part.take(sample_support(part, n_classes, photos, seed=1))
    names = [images.classes[row] for row in rows]
    return list(chosen.paths), [names[label] for label in chosen.labels]


def encode(encoders: dict[str, Encoder], paths: list[Path]) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """The photos in every precision -> [embedding | feature] (n, d + f); seconds of wall clock and of processors."""
    rows: dict[str, list[Tensor]] = {dtype: [] for dtype in encoders}
    seconds = {dtype: {"wall": 0.0, "processor": 0.0} for dtype in encoders}
    first = next(iter(encoders.values()))
    size = default_batch_size(first.device)
    for start in range(0, len(paths), size):
        pixels = torch.stack([first.preprocess(path) for path in paths[start : start + size]])
        for dtype, encoder in encoders.items():
            if not start:
                encoder.encode_images(pixels)  # the first call also prepares kernels
            wall, processor = time.perf_counter(), time.process_time()
            features = encoder.encode_images(pixels)
            seconds[dtype]["processor"] += time.process_time() - processor
            seconds[dtype]["wall"] += time.perf_counter() - wall
            rows[dtype].append(torch.cat([features.embedding, features.feature], dim=1))
    return {dtype: torch.cat(parts) for dtype, parts in rows.items()}, seconds


def cosines(ours: Tensor, exact: Tensor) -> dict[str, float]:
    values = functional.cosine_similarity(ours, exact)
    return {"mean": float(values.mean()), "min": float(values.min())}


def classify(
    X: dict[str, Tensor], text: Tensor, labels: list[str], classes: list[str], shots: int, photos: int
) -> dict[str, Any]:
    """Each method fitted and tested in one precision: accuracy, and agreement with float32's predictions (percent)."""
    support = torch.arange(len(labels)) % photos < shots
    y = [label for label, chosen in zip(labels, support.tolist(), strict=True) if chosen]
    truth = [label for label, chosen in zip(labels, support.tolist(), strict=True) if not chosen]
    found: dict[str, Any] = {}
    for method in METHODS:
        predicted = {
            dtype: get_method(method)(text=text, classes=classes).fit(rows[support], y).predict(rows[~support])
            for dtype, rows in X.items()
        }
        found[method] = {
            dtype: {
                "accuracy": float((labels_of == truth).mean() * 100),
                "agreement": float((labels_of == predicted["float32"]).mean() * 100),
            }
            for dtype, labels_of in predicted.items()
        }
    return found


def memory(model: str, dtype: str, paths: list[Path]) -> float:
    """Peak memory (MB) of a process of its own that loads this encoder and encodes a few photos."""
    command = [sys.executable, __file__, *map(str, paths), "--model", model, "--memory", dtype]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--split", type=Path)
    parser.add_argument("--model", default="pocket-clip")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--tests", type=int, default=7, help="test photos of each class")
    parser.add_argument("--memory", choices=DTYPES, help=argparse.SUPPRESS)  # what one of the child processes measures
    arguments = parser.parse_args()
    if arguments.memory:
        alone = {arguments.memory: load_encoder(arguments.model, device="cpu", dtype=arguments.memory)}
        keep_freed_memory()  # after loading, as everywhere
        encode(alone, arguments.data)
        print(peak_memory_mb())
        return
    photos = arguments.shots + arguments.tests
    paths, labels = choose(arguments.data[0], arguments.split, arguments.classes, photos)
    # First of all: a process starts with the peak of the one that it was forked from.
    peaks = {dtype: memory(arguments.model, dtype, paths[:MEMORY_IMAGES]) for dtype in DTYPES}
    encoders = {dtype: load_encoder(arguments.model, device="cpu", dtype=dtype) for dtype in DTYPES}
    keep_freed_memory()
    X, seconds = encode(encoders, paths)
    classes = list(dict.fromkeys(labels))
    text = Prompts().encode(encoders["float32"], classes)
    scores = classify(X, text, labels, classes, arguments.shots, photos)
    d = text.shape[1]
    report: dict[str, Any] = {}
    table = Table("precision", "images/s", "a core", "memory MB", "cosine mean", "min", *METHODS, "same labels")
    for dtype in DTYPES:
        report[dtype] = {
            "images_per_second": len(paths) / seconds[dtype]["wall"],
            "images_per_processor_second": len(paths) / seconds[dtype]["processor"],
            "peak_memory_mb": peaks[dtype],
            "feature_cosine": cosines(X[dtype][:, d:], X["float32"][:, d:]),
            "embedding_cosine": cosines(X[dtype][:, :d], X["float32"][:, :d]),
            "classifiers": {method: scores[method][dtype] for method in METHODS},
        }
        row = report[dtype]
        rates = (row["images_per_second"], row["images_per_processor_second"])
        table.add_row(
            dtype,
            *(f"{rate:.2f}" for rate in rates),
            f"{row['peak_memory_mb']:.0f}",
            *(f"{row['feature_cosine'][key]:.4f}" for key in ("mean", "min")),
            *(f"{row['classifiers'][method]['accuracy']:.1f}" for method in METHODS),
            " ".join(f"{row['classifiers'][method]['agreement']:.1f}" for method in METHODS),
        )
    Console(width=140).print(table)
    write_json(
        result_file("int8"),
        {
            "model": encoders["float32"].identity,
            "data": {"source": arguments.data[0].name, "classes": classes, "shots": arguments.shots},
            "test_photos": arguments.tests * len(classes),
            "precisions": report,
            "threads": torch.get_num_threads(),
            "machine": machine(encoders["float32"]) | {"model": processor_name()},
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
