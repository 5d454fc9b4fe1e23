"""What benchmarks of trainings share: methods side by side, each with its learning rates, in processes of their own.

The mean validation score over seeds chooses a method's learning rate, and those runs' test scores are in the table.
What was measured already (in --work) is not run again, so that several commands, each with some of the methods, can
share a --work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from rich.console import Console
from rich.table import Table

from common import result_file

# What of a recipe is written down; the rest says where things lie on this machine.
SPENT = "cpu_seconds.json"
SETTINGS = ("backbone", "model", "visual", "method", "also_train", "training")


def compare(kind: str, methods: dict[str, list[str]], about: str) -> argparse.Namespace:
    """Run the command line of a benchmark.

    Args:
        kind: of the results' file.
        methods: name -> what it changes in the recipe.
        about: the benchmark's help.

    Returns:
        what the command line said.
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
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0])
    parser.add_argument("--work", type=Path, default=Path("runs") / kind, help="folder of the runs")
    parser.add_argument("--name", default="pocket", help="of the results")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--machine", default=f"{platform.machine()}, {os.cpu_count()} cores")
    arguments = parser.parse_args()
    rows = []
    for method in arguments.methods:
        for rate in arguments.rates:
            for seed in arguments.seeds:
                run(arguments, method, methods[method], rate, seed)
        runs = [read(path) for path in sorted(arguments.work.glob(f"{slug(method)}@*/results.json"))]
        if not runs:
            continue
        rows.append(row(method, runs))
        write(kind, arguments, rows)
    show(rows)
    return arguments


def slug(method: str) -> str:
    return method.replace(", ", "-").replace(" ", "-")


def run(arguments: argparse.Namespace, method: str, own: list[str], rate: str, seed: int) -> None:
    """One training, unless it is done."""
    out = arguments.work / f"{slug(method)}@{rate}-{seed}"
    if not (out / "results.json").is_file():
        changes = [*arguments.changes, *own, f"training.learning_rate={rate}", f"training.seed={seed}", f"out={out}"]
        resume = ["--resume"] if (out / "recipe.json").is_file() else []
        command = [sys.executable, "-m", "crossgraft.cli.main", "train", str(arguments.recipe), *changes, *resume]
        spend(out, [*command, "--device", arguments.device])


def spend(out: Path, command: list[str]) -> None:
    """Run a command and write down what time of processors it took: less noisy than the clock where others work too."""
    before = os.times()
    subprocess.run(command, check=True)
    after = os.times()
    spent = sum(getattr(after, part) - getattr(before, part) for part in ("children_user", "children_system"))
    (out / SPENT).write_text(json.dumps(spent))


def read(results: Path) -> dict[str, Any]:
    return {**json.loads(results.read_text()), "cpu_seconds": json.loads((results.parent / SPENT).read_text())}


def row(method: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    by_rate = defaultdict(list)
    for document in runs:
        by_rate[document["settings"]["training"]["learning_rate"]].append(document)
    val = {rate: fmean(one["mean_score"]["val"] for one in same) for rate, same in by_rate.items()}
    rate = max(val, key=val.__getitem__)
    chosen = by_rate[rate]
    first = chosen[0]
    return {
        "method": method,
        "learning_rate": rate,
        "tried": {str(other): score for other, score in val.items()},
        "test": {
            test.removesuffix("/test"): {name: fmean(values(chosen, test, name)) for name in found}
            for test, found in first["metrics"].items()
            if test.endswith("/test")
        },
        "mean_score": {split: fmean(scores(chosen, split)) for split in first["mean_score"]},
        "std": {split: pstdev(scores(chosen, split)) for split in first["mean_score"]},
        "per_seed": scores(chosen, "test"),
        "parameters": first["parameters"],
        "steps": first["steps"],
        "seconds_per_step": min(one["seconds"]["step"] for one in chosen),
        "cpu_seconds": fmean(one["cpu_seconds"] for one in chosen),
        "peak_memory_mb": max(one.get("peak_gpu_memory_mb", one["peak_memory_mb"]) for one in chosen),
        "seeds": [seed for one in chosen for seed in one["seeds"]],
        "data": first["data"],
        "settings": {key: first["settings"][key] for key in SETTINGS},
        "versions": first["versions"],
    }


def scores(runs: list[dict[str, Any]], split: str) -> list[float]:
    return [one["mean_score"][split] for one in runs]


def values(runs: list[dict[str, Any]], test: str, name: str) -> list[float]:
    return [one["metrics"][test][name]["mean"] for one in runs]


def write(kind: str, arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    document = {
        "recipe": str(arguments.recipe),
        "changes": said(arguments.changes),
        "protocol": "trained on train; learning rate and epoch chosen on val; scored on test once",
        "machine": arguments.machine,
        "methods": rows,
    }
    result_file(kind, arguments.name).write_text(json.dumps(document, indent=1) + "\n")


def said(changes: list[str]) -> list[str]:
    """Changes of a recipe without where things lie on this machine."""
    return [change for change in changes if not change.startswith(("data=", "out="))]


def show(rows: list[dict[str, Any]]) -> None:
    tasks = list(rows[0]["test"])
    table = Table("method", "%", *tasks, "mean", "s/step", "MB", "rate")
    for entry in rows:
        scores = [f"{main_metric(entry['test'][task]):.1f}" for task in tasks]
        table.add_row(
            entry["method"],
            f"{entry['parameters']['percent']:.2f}",
            *scores,
            f"{entry['mean_score']['test']:.1f} ± {entry['std']['test']:.1f}",
            f"{entry['seconds_per_step']:.2f}",
            f"{entry['peak_memory_mb']:.0f}",
            f"{entry['learning_rate']:g}",
        )
    Console().print(table)


def main_metric(found: dict[str, float]) -> float:
    """CIDEr of captions, GLUE's score of its corpora, accuracy of all else."""
    return next(found[name] for name in ("CIDEr", "score", "accuracy") if name in found)
