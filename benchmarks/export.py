"""Agreement, size and speed of exported classifiers beside PyTorch, in one run.

    python benchmarks/export.py RUN [--whole proker] [--images FOLDER] [--count 24]

RUN is an output folder of `crossgraft fewshot`. Exports the head of every adapter in it and the whole classifier of
`--whole`, then predicts `--count` photos with that file and with PyTorch, batch by batch in turn, from pixels on.
Writes benchmarks/results/export-MODEL.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console

from common import machine, result_file
from crossgraft.encoders.encode_shards import default_batch_size
from crossgraft.encoders.images import IMAGE_SUFFIXES
from crossgraft.fewshot.predictor import Predictor
from crossgraft.files import write_json
from crossgraft.reporting.results import versions
from crossgraft.serving.onnx_export import export_onnx

EMOJI = Path(__file__).parent.parent / "demo" / "emoji" / "noto"


def exported(adapter: Path, file: Path, *, head_only: bool) -> dict[str, Any]:
    """Export, and what to record of it."""
    started = time.perf_counter()
    report = export_onnx(adapter, file, head_only=head_only)
    seconds = time.perf_counter() - started
    return {key: report[key] for key in ("linear", "opset", "bytes", "agreement")} | {"seconds": seconds}


def race(adapter: Path, file: Path, photos: list[Path]) -> dict[str, Any]:
    """Photos a second in PyTorch and in onnxruntime, in as many threads; labels and probabilities compared."""
    predictor = Predictor.load(adapter, device="cpu", dtype="float32")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    size = default_batch_size(predictor.encoder.device)
    batches = [
        torch.stack([predictor.encoder.preprocess(photo) for photo in photos[i : i + size]])
        for i in range(0, len(photos), size)
    ]

    def with_torch(pixels: torch.Tensor) -> np.ndarray:
        features = predictor.encoder.encode_images(pixels)
        keyed = predictor.config["extra"]["key"] == "feature"
        parts = [features.embedding, features.feature] if keyed else [features.embedding]
        return predictor.classifier.predict_proba(torch.cat(parts, dim=1))

    def with_onnxruntime(pixels: torch.Tensor) -> np.ndarray:
        (probabilities,) = session.run(["probabilities"], {"pixels": pixels.numpy()})
        return probabilities

    ways = {"torch": with_torch, "onnxruntime": with_onnxruntime}
    seconds, probabilities = dict.fromkeys(ways, 0.0), {name: [] for name in ways}
    for number, pixels in enumerate(batches):
        for name, way in ways.items():
            if not number:
                way(pixels)  # the first call also prepares kernels
            started = time.process_time()
            probabilities[name].append(way(pixels))
            seconds[name] += time.process_time() - started
    ours, exact = (np.concatenate(probabilities[name]) for name in ("onnxruntime", "torch"))
    return {
        "photos": len(photos),
        "photos_per_processor_second": {name: len(photos) / spent for name, spent in seconds.items()},
        "max_probability_difference": float(np.abs(ours - exact).max()),
        "same_label": float((ours.argmax(1) == exact.argmax(1)).mean() * 100),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--whole", default="proker", help="method whose whole classifier is exported")
    parser.add_argument("--images", type=Path, default=EMOJI)
    parser.add_argument("--count", type=int, default=24)
    arguments = parser.parse_args()
    console = Console()
    found = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    photos = found[:: max(1, len(found) // arguments.count)][: arguments.count]
    heads = {}
    with tempfile.TemporaryDirectory() as folder:
        for config in sorted(arguments.run.glob("adapters/[!.]*/adapter_config.json")):
            name = config.parent.name
            heads[name] = exported(config.parent, Path(folder) / "head.onnx", head_only=True)
            console.print(f"{name}: {heads[name]['agreement']['max_probability_difference']:.1e}")
        adapter, file = arguments.run / "adapters" / arguments.whole, Path(folder) / "whole.onnx"
        whole = exported(adapter, file, head_only=False) | race(adapter, file, photos)
        encoder = Predictor.load(adapter, device="cpu").encoder
    console.print(whole)
    write_json(
        result_file("export", Path(encoder.name).name),
        {
            "model": encoder.identity,
            "heads": heads,
            "whole": {"method": arguments.whole, **whole},
            "threads": torch.get_num_threads(),
            "machine": machine(encoder),
            "versions": versions() | {"onnxruntime": onnxruntime.__version__},
        },
    )


if __name__ == "__main__":
    main()
