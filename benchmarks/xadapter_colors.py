"""Object colours after adaptation on captions: X-adapter and all of its controls, at equal steps.

    python benchmarks/xadapter_colors.py recipes/pocket/xadapter-llama.yaml data=DATA training.max_steps=200 \\
        --colors DATA/text/color_terms/color-concrete-objects.csv DATA/text/coda --machine "..."

Zero-shot: nothing of the data sets is learned from. Each number is a mean over prompts, with its range
and the 95 % bootstrap interval over objects; "minus text" is the paired difference to adapters of equal size that
learned the same captions without images. What was trained already (in --work) is not trained again.
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
from trainings import SETTINGS, SPENT, said, slug, spend

UNTOUCHED, TEXT, BY_NAME = "untouched", "captions, no images", "both, images by object name"
VARIANTS = {
    TEXT: ["method={name: adapter, bottleneck: 315, sites: ['decoder.15-29.output']}"],
    "both": [],
    "V-expert": ["method.experts=[visual]"],
    "T-expert": ["method.experts=[text]"],
    "random images": ["method.experts=[visual]", "knowledge.choice=random", "knowledge.own=false"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("changes", nargs="*", help="key=value, as for `crossgraft train`")
    parser.add_argument("--colors", type=Path, nargs="+", required=True, help="data sets of object colours")
    parser.add_argument("--variants", type=lambda text: text.split(";"), default=list(VARIANTS), help="separated by ;")
    parser.add_argument("--model", default="pocket-llama")
    parser.add_argument("--work", type=Path, default=Path("runs/xadapter-colors"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--machine", default=f"{platform.machine()}, {os.cpu_count()} cores")
    arguments = parser.parse_intermixed_args()
    chosen = {name: changes for name, changes in VARIANTS.items() if name in {TEXT, "both", *arguments.variants}}
    trained = {name: train(arguments, name, changes) for name, changes in chosen.items()}
    rows = []
    for data in arguments.colors:
        control = None
        for name, run in {TEXT: trained[TEXT], UNTOUCHED: None, **trained, BY_NAME: trained["both"]}.items():
            out = arguments.work / f"{slug(name)}-{data.stem}"
            rows.append({"variant": name, **ask(arguments, data, run, out, control, name == BY_NAME)})
            control = control or out / "answers.jsonl"
    document = {
        "model": arguments.model,
        "recipe": str(arguments.recipe),
        "changes": said(arguments.changes),
        "machine": arguments.machine,
        "variants": chosen,
        "trainings": {name: summary(run) for name, run in trained.items()},
        "results": rows,
    }
    result_file("xadapter_colors", arguments.model).write_text(json.dumps(document, indent=1) + "\n")
    show(document)


def train(arguments: argparse.Namespace, name: str, changes: list[str]) -> Path:
    out: Path = arguments.work / slug(name)
    if not (out / "results.json").is_file():
        resume = ["--resume"] if (out / "recipe.json").is_file() else []
        command = [sys.executable, "-m", "crossgraft.cli.main", "train", str(arguments.recipe), *arguments.changes]
        spend(out, [*command, *changes, f"out={out}", *resume, "--device", arguments.device])
    return out


def ask(
    arguments: argparse.Namespace, data: Path, run: Path | None, out: Path, control: Path | None, by_name: bool
) -> dict[str, Any]:
    """`crossgraft colors` -> what is kept of its results."""
    if not (out / "results.json").is_file():
        command = [sys.executable, "-m", "crossgraft.cli.main", "colors", "--model", arguments.model]
        command += ["--data", str(data), "--out", str(out), "--device", arguments.device, "--json"]
        command += ["--adapter", str(run)] if run is not None else []
        command += ["--look-for", "object"] if by_name else []
        command += ["--control", str(control)] if control is not None else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads((out / "results.json").read_text())
    colors = found["colors"]
    kept = {key: colors[key] for key in ("mean", "range", "mean_without_bias", "range_without_bias", "majority")}
    difference = {key: value for key, value in found.get("control", {}).items() if key != "answers"}
    return {"data": found["data"], **kept, "minus_text": difference or None, "seconds": found["seconds"]}


def summary(run: Path) -> dict[str, Any]:
    found = json.loads((run / "results.json").read_text())
    kept = ("parameters", "steps", "seeds", "seconds", "mean_score", "knowledge", "data", "versions")
    settings = {key: found["settings"][key] for key in SETTINGS}
    return {key: found[key] for key in kept} | {
        "settings": settings,
        "cpu_seconds": json.loads((run / SPENT).read_text()),
    }


def show(document: dict[str, Any]) -> None:
    table = Table("data", "variant", "% trained", "mean", "95 %", "range", "without bias", "minus text")
    for row in document["results"]:
        trained = document["trainings"].get("both" if row["variant"] == BY_NAME else row["variant"])
        control, mean = row["minus_text"], row["mean"]
        table.add_row(
            row["data"]["name"],
            row["variant"],
            "" if trained is None else f"{trained['parameters']['percent']:.2f}",
            f"{mean['mean']:.1f}",
            f"{mean['low']:.1f}-{mean['high']:.1f}",
            f"{row['range'][0]:.1f}-{row['range'][1]:.1f}",
            f"{row['mean_without_bias']['mean']:.1f}",
            "" if control is None else f"{control['mean']:+.1f} ({control['low']:+.1f} to {control['high']:+.1f})",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
