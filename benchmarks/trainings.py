"""What benchmarks of trainings share: methods side by side, each with its learning rates, in processes of their own.

The validation score chooses a method's learning rate, and that run's test scores are in the table. What was measured
already (in --work) is not run again, so that several commands, each with some of the methods, can share a --work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import result_file

# What of a recipe is written down; the rest says where things lie on this machine.
SETTINGS = ("backbone", "model", "visual", "method", "also_train", "training")


def compare(kind: str, methods: dict[str, list[str]], about: str) -> None:
    """Run the command line of a benchmark.

    Args:
        kind: of the results' file.
        methods: name -> what it changes in the recipe.
        about: the benchmark's help.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("changes", nargs="*", help="key=value, as for `crossgraft train`")
    parser.add_argument("--methods", type=lambda text: text.split(";"), default=list(methods), help="separated by ;")
    parser.add_argument(
        "--rates",
        type=lambda text: [part for part in text.split(",") if part],
        default=["1e-3"],
        help="learning rates to try; none (''): only gather what lies in --work",
    )
    parser.add_argument("--work", type=Path, default=Path("runs") / kind, help="folder of the runs")
    parser.add_argument("--name", default="pocket", help="of the results")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--machine", default=f"{platform.machine()}, {os.cpu_count()} cores")
    arguments = parser.parse_args()
    rows = []
    for method in arguments.methods:
        for rate in arguments.rates:
            run(arguments, method, methods[method], rate)
        runs = [json.loads(path.read_text()) for path in sorted(arguments.work.glob(f"{slug(method)}@*/results.json"))]
        if not runs:
            continue
        best = max(runs, key=lambda document: document["mean_score"]["val"])
        rows.append(row(method, best, runs))
        write(kind, arguments, rows)
    show(rows)


def slug(method: str) -> str:
    return method.replace(", ", "-").replace(" ", "-")


def run(arguments: argparse.Namespace, method: str, own: list[str], rate: str) -> None:
    """One training, unless it is done."""
    out = arguments.work / f"{slug(method)}@{rate}"
    if not (out / "results.json").is_file():
        changes = [*arguments.changes, *own, f"training.learning_rate={rate}", f"out={out}"]
        resume = ["--resume"] if (out / "recipe.json").is_file() else []
        command = [sys.executable, "-m", "crossgraft.cli.main", "train", str(arguments.recipe), *changes, *resume]
        subprocess.run([*command, "--device", arguments.device], check=True)


def row(method: str, best: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    metrics = best["metrics"]
    return {
        "method": method,
        "learning_rate": best["settings"]["training"]["learning_rate"],
        "tried": {str(other["settings"]["training"]["learning_rate"]): other["mean_score"]["val"] for other in runs},
        "test": {
            test.removesuffix("/test"): {name: value["mean"] for name, value in found.items()}
            for test, found in metrics.items()
            if test.endswith("/test")
        },
        "mean_score": best["mean_score"],
        "parameters": best["parameters"],
        "steps": best["steps"],
        "seconds_per_step": best["seconds"]["step"],
        "peak_memory_mb": best.get("peak_gpu_memory_mb", best["peak_memory_mb"]),
        "seeds": best["seeds"],
        "data": best["data"],
        "settings": {key: best["settings"][key] for key in SETTINGS},
        "versions": best["versions"],
    }


def write(kind: str, arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    document = {
        "recipe": str(arguments.recipe),
        "changes": arguments.changes,
        "protocol": "trained on train; learning rate and epoch chosen on val; scored on test once",
        "machine": arguments.machine,
        "methods": rows,
    }
    result_file(kind, arguments.name).write_text(json.dumps(document, indent=1) + "\n")


def show(rows: list[dict[str, Any]]) -> None:
    tasks = list(rows[0]["test"])
    table = Table("method", "%", *tasks, "mean", "s/step", "MB", "rate")
    for entry in rows:
        scores = [f"{main_metric(entry['test'][task]):.1f}" for task in tasks]
        table.add_row(
            entry["method"],
            f"{entry['parameters']['percent']:.2f}",
            *scores,
            f"{entry['mean_score']['test']:.1f}",
            f"{entry['seconds_per_step']:.2f}",
            f"{entry['peak_memory_mb']:.0f}",
            f"{entry['learning_rate']:g}",
        )
    Console().print(table)


def main_metric(found: dict[str, float]) -> float:
    """CIDEr of captions, accuracy of all else."""
    return found["CIDEr"] if "CIDEr" in found else found["accuracy"]
