"""Images a second from file to pixel tensor, beside the Hugging Face image processor on Pillow, in one run.

    python benchmarks/preprocess.py                    on generated photographs of three sizes
    python benchmarks/preprocess.py --images FOLDER    on the images of a folder

One thread. The pipelines take turns, round after round, so that a busy machine slows all of them; a pipeline's figure
is its median round. Differences are in grey levels (1/255 before normalisation) to the Hugging Face processor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from crossgraft.encoders import images
from crossgraft.encoders.preprocess import Preprocess

PROCESSOR = CLIPImageProcessorPil()
EXACT = Preprocess.from_hf(PROCESSOR)
DRAFT = Preprocess.from_hf(PROCESSOR, draft=True)
SIZES = {"300 x 200": (300, 200, 48), "1024 x 768": (1024, 768, 16), "4032 x 3024": (4032, 3024, 3)}


def huggingface(path: Path) -> Tensor:
    with Image.open(path) as image:
        return PROCESSOR(image, return_tensors="pt").pixel_values[0]


def draft_on_pillow(path: Path) -> Tensor:
    installed, images.simplejpeg = images.simplejpeg, None
    try:
        return DRAFT(path)
    finally:
        images.simplejpeg = installed


def pipelines() -> dict[str, Callable[[Path], Tensor]]:
    found: dict[str, Callable[[Path], Tensor]] = {
        "Hugging Face": huggingface,
        "crossgraft": EXACT,
        "crossgraft draft (Pillow)": draft_on_pillow,
    }
    if images.simplejpeg is not None:
        found["crossgraft draft (simplejpeg)"] = DRAFT
    return found


def photographs(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """Smooth colour with fine grain, as JPEGs."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(count):
        coarse = rng.integers(0, 256, (13, 17, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = rng.normal(0, 3, (height, width, 1)).astype(np.float32)
        paths.append(folder / f"{width}x{height}-{index}.jpg")
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def usable(folder: Path, limit: int) -> list[Path]:
    """Upright RGB images of a folder, evenly spread; the processor does not handle the others as we do."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.IMAGE_SUFFIXES)
    kept = []
    for path in found[:: max(len(found) // limit, 1)][:limit]:
        with Image.open(path) as image:
            if image.mode == "RGB" and image.getexif().get(0x0112, 1) == 1:
                kept.append(path)
    if not kept:
        raise SystemExit(f"{folder}: no upright RGB images")
    return kept


def measure(paths: list[Path], rounds: int) -> dict[str, dict[str, float]]:
    to_levels = torch.tensor(EXACT.std)[:, None, None] * 255
    results: dict[str, dict[str, float]] = {}
    rates: dict[str, list[float]] = {name: [] for name in pipelines()}
    for name, run in pipelines().items():  # this also warms the file cache
        differences = [((run(path) - huggingface(path)) * to_levels).abs() for path in paths]
        results[name] = {
            "max_difference_grey_levels": max(difference.max().item() for difference in differences),
            "mean_difference_grey_levels": statistics.fmean(difference.mean().item() for difference in differences),
        }
    for _ in track(range(rounds), "rounds", console=Console(stderr=True), transient=True):
        for name, run in pipelines().items():
            start = time.perf_counter()
            for path in paths:
                run(path)
            rates[name].append(len(paths) / (time.perf_counter() - start))
    reference = statistics.median(rates["Hugging Face"])
    for name, values in rates.items():
        rate = statistics.median(values)
        results[name] |= {"images_per_second": rate, "ratio": rate / reference}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="measure on this folder's images instead of generated ones")
    parser.add_argument("--limit", type=int, default=200, help="at most so many images of the folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "preprocess.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        if arguments.images:
            sets = {arguments.images.name: usable(arguments.images, arguments.limit)}
        else:
            sets = {name: photographs(Path(folder), *size) for name, size in SIZES.items()}
        results = {name: measure(paths, arguments.rounds) for name, paths in sets.items()}

    for name, rows in results.items():
        table = Table("pipeline", title=f"{len(sets[name])} images, {name}, to 224 x 224; one thread")
        for heading in ("images/s", "ratio", "mean diff.", "max diff."):
            table.add_column(heading, justify="right")
        for pipeline, row in rows.items():
            table.add_row(
                pipeline,
                f"{row['images_per_second']:.1f}",
                f"{row['ratio']:.2f}",
                f"{row['mean_difference_grey_levels']:.4f}",
                f"{row['max_difference_grey_levels']:.4f}",
            )
        Console().print(table)

    packages = ["crossgraft", "torch", "transformers", "pillow", "numpy"]
    packages += ["simplejpeg"] if images.simplejpeg is not None else []
    report = {
        "benchmark": "preprocess",
        "images": {name: len(paths) for name, paths in sets.items()},
        "rounds": arguments.rounds,
        "results": results,
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
