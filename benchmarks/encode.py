"""Images a second from files to stored features, beside the plain Hugging Face pipeline, in one run.

    python benchmarks/encode.py [--images FOLDER] [--count 128]

Each way runs in a process of its own (so that peak memory is its own), alternating, `--repeats` times; the best rate
counts. The plain pipeline is CLIPImageProcessorPil and CLIPVisionModelWithProjection on pocket-clip's image tower, in
batches of 32 and of 1; pocket-clip does more work an image than that tower alone, since it also runs EfficientNet-Lite0
for its alignment. Writes benchmarks/results/encode.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from crossgraft.encoders.images import IMAGE_SUFFIXES
from crossgraft.files import write_json
from crossgraft.reporting.results import peak_memory_mb, versions

RESULTS = Path(__file__).parent / "results" / "encode.json"
EMOJI = Path(__file__).parent.parent / "demo" / "emoji" / "noto"
WAYS = {
    "Hugging Face, batch 32": ["plain", "32"],
    "Hugging Face, batch 1": ["plain", "1"],
    "pocket-clip": ["ours", "pocket-clip", "float32"],
    "pocket-clip, bfloat16": ["ours", "pocket-clip", "bfloat16"],
    "pocket-lite": ["ours", "pocket-lite", "float32"],
    "pocket-lite, bfloat16": ["ours", "pocket-lite", "bfloat16"],
}


def plain(paths: list[Path], batch: int) -> float:
    """What a user writes by hand; returns seconds without the loading of the model."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    from crossgraft.pocket.pull import pocket_folder

    folder = pocket_folder("pocket-clip") / "vision"
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    model = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    start = time.perf_counter()
    with torch.no_grad():
        features = [
            model(**processor([Image.open(path) for path in paths[i : i + batch]], return_tensors="pt")).image_embeds
            for i in range(0, len(paths), batch)
        ]
    assert sum(map(len, features)) == len(paths)
    return time.perf_counter() - start


def ours(paths: list[Path], model: str, dtype: str) -> float:
    """`extract` into a fresh store, hashing and writing included."""
    from crossgraft.encoders.extract import extract
    from crossgraft.encoders.load import load_encoder

    encoder = load_encoder(model, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        done = extract(paths, encoder, Path(folder), progress=False)
        seconds = time.perf_counter() - start
    assert done.encoded == len(paths)
    return seconds


def measure(way: list[str], paths: list[Path]) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", json.dumps(way)]
    run = subprocess.run(command, input="\n".join(map(str, paths)), capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=EMOJI)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)  # what one of the child processes measures
    arguments = parser.parse_args()
    if arguments.way:
        paths = [Path(line) for line in sys.stdin.read().splitlines()]
        kind, *options = json.loads(arguments.way)
        seconds = plain(paths, int(options[0])) if kind == "plain" else ours(paths, options[0], options[1])
        print(json.dumps({"rate": len(paths) / seconds, "peak_memory_mb": peak_memory_mb()}))
        return
    # One image of each content: a store encodes equal files once.
    found = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    paths = list({path.read_bytes(): path for path in found}.values())
    paths = paths[:: max(1, len(paths) // arguments.count)][: arguments.count]
    best: dict[str, dict[str, float]] = {}
    for _ in range(arguments.repeats):
        for name, way in WAYS.items():
            result = measure(way, paths)
            if name not in best or result["rate"] > best[name]["rate"]:
                best[name] = result
    base = best["Hugging Face, batch 32"]["rate"]
    table = Table("way", "images/s", "ratio", "peak memory MB", title=f"{len(paths)} images of {arguments.images.name}")
    for name, result in best.items():
        result["ratio"] = result["rate"] / base
        table.add_row(name, f"{result['rate']:.1f}", f"{result['ratio']:.2f}x", f"{result['peak_memory_mb']:.0f}")
    Console().print(table)
    machine = {"processor": platform.machine(), "cpu_count": os.cpu_count()}
    write_json(
        RESULTS,
        {
            "images": len(paths),
            "source": arguments.images.name,
            "ways": best,
            "machine": machine,
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
